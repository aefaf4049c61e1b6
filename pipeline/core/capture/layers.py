"""Per-sample gradients of single layers, from their inputs and output gradients.

A layer y = f(x; W, b) with output gradients s = d l / d y gives, summed over the T positions of a row:

* Linear:                   dW = sum_t s_t x_t^T,                     db = sum_t s_t
* Conv (any stride etc.):   the same, with x_t the patch that output position t looks at, W as [O, I k]
* Embedding:                dW[v] = sum of s_t over positions t whose index is v
* norms in eval mode:       dw = sum_t s_t * xhat_t with xhat the normalised input, db = sum_t s_t

The batch stands first, and may be flattened together with positions ([B * T, ...], row by row): all formulas take the
first dimension apart into B rows.

Letters: B rows, T positions, O outputs and I inputs of a layer, k size of a kernel, V words, D width, C channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from pipeline.core.capture.formula import Dense, Formula, Layer, Outer, Part, channel_sums, position_sums, positions
from pipeline.core.factors import Vectors, Words


class LinearFormula(Formula):
    """Linear on [B, I] or [B, ..., I]."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors s and x."""
        return Outer(Vectors(positions(gradient, rows)), Vectors(positions(input, rows)))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions."""
        return Dense(position_sums(positions(gradient, rows)))


class TransposedLinearFormula(LinearFormula):
    """Linear with its weight stored as [I, O], as the Conv1D of the `transformers` library."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors x and s, in the order of the weight."""
        return Outer(Vectors(positions(input, rows)), Vectors(positions(gradient, rows)))


class EmbeddingFormula(Formula):
    """Embedding of indices [B, ...]."""

    def serves(self, module: Layer) -> bool:
        """Without rescaling of the weights in the forward pass, or of gradients by the batch's counts."""
        return module.max_norm is None and not module.scale_grad_by_freq

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors: unit vectors and s, which is zero where the word is the padding's."""
        words, width = module.weight.shape
        indices, gradients = input.reshape(rows, -1), gradient.reshape(rows, -1, width)
        if module.padding_idx is not None:
            gradients = gradients.masked_fill((indices == module.padding_idx).unsqueeze(2), 0)
        return Outer(Words(indices, words, gradients.dtype), Vectors(gradients))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """Never asked for."""
        raise NotImplementedError("an embedding has no bias")


class LayerNormFormula(Formula):
    """LayerNorm over the last dimensions."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions."""
        normal = F.layer_norm(input, module.normalized_shape, eps=module.eps)
        return self._summed(module, gradient * normal, rows)

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions."""
        return self._summed(module, gradient, rows)

    def _summed(self, module: Layer, values: Tensor, rows: int) -> Part:
        return Dense(position_sums(values.reshape(rows, -1, module.weight.numel())))


class RMSNormFormula(LayerNormFormula):
    """RMSNorm over the last dimensions."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions."""
        normal = F.rms_norm(input, module.normalized_shape, eps=module.eps)
        return self._summed(module, gradient * normal, rows)


class NarrowRMSNormFormula(LayerNormFormula):
    """RMSNorm over the last dimension as the `transformers` library has it: whatever the input, in float32."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions."""
        narrow = input.float()
        normal = narrow * (narrow.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
        return self._summed(module, gradient * normal.to(input.dtype), rows)


class GroupNormFormula(Formula):
    """GroupNorm on [B, C, ...]."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions, a channel."""
        normal = F.group_norm(input, module.num_groups, eps=module.eps)
        return Dense(channel_sums(gradient * normal, rows))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions, a channel."""
        return Dense(channel_sums(gradient, rows))


class BatchNormFormula(GroupNormFormula):
    """BatchNorm in eval mode on [B, C, ...], by its running statistics."""

    def serves(self, module: Layer) -> bool:
        """With running statistics only: without them rows see each other even in eval mode."""
        return module.running_mean is not None

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions, a channel."""
        normal = F.batch_norm(input, module.running_mean, module.running_var, eps=module.eps)
        return Dense(channel_sums(gradient * normal, rows))
