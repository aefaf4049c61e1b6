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

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Outer:
    """A weight's gradient as factors: sum over t of output[b, t] input[b, t]^T.

    Attributes:
        output: [B, T, O].
        input: [B, T, I].
    """

    output: Tensor
    input: Tensor


@dataclass(frozen=True)
class Dense:
    """A parameter's gradient, materialised.

    Attributes:
        gradient: [B, ...] with the parameter's entries, in any shape.
    """

    gradient: Tensor


Part = Outer | Dense
Layer = Any  # the nn.Module that a formula is for: its attributes are its own kind's


def total(parts: list[Part], rows: int, shape: torch.Size) -> Part:
    """The sum of the contributions of all uses of a parameter of the given shape; if dense, [B, *shape].

    Factors are joined along T: the sum of their products is the product of the joined.

    Raises:
        ValueError: factors that are not B x T x O and B x T x I of the parameter.
    """
    outers = [part for part in parts if isinstance(part, Outer)]
    for outer in outers:
        expected = ((rows, outer.input.shape[1], shape[0]), (rows, outer.output.shape[1], prod(shape[1:])))
        if (outer.output.shape, outer.input.shape) != expected:
            got = [list(outer.output.shape), list(outer.input.shape)]
            raise ValueError(f"expected factors of [{rows}, *{list(shape)}], got {got}")
    if len(parts) == 1 and outers:
        return outers[0]
    if len(outers) == len(parts):
        return Outer(torch.cat([p.output for p in outers], 1), torch.cat([p.input for p in outers], 1))
    gradient = materialised(parts[0], shape)
    for part in parts[1:]:
        gradient = gradient + materialised(part, shape)
    return Dense(gradient.reshape(rows, *shape))


def materialised(part: Part, shape: torch.Size) -> Tensor:
    """The gradient of one contribution, [B, *shape]."""
    gradient = part.gradient if isinstance(part, Dense) else torch.bmm(part.output.mT, part.input)
    return gradient.reshape(gradient.shape[0], *shape)


class Formula(ABC):
    """The gradients of one kind of layer. Stateless."""

    def serves(self, module: Layer) -> bool:
        """Whether the formula holds with this module's options."""
        return True

    @abstractmethod
    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The gradient of `module.weight`.

        Args:
            module: the layer.
            input: what it was given, x.
            gradient: s, in the shape of the layer's output.
            rows: B.
        """

    @abstractmethod
    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The gradient of `module.bias`; arguments as for `weight`."""


class LinearFormula(Formula):
    """Linear on [B, I] or [B, ..., I]."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors s and x."""
        return Outer(_positions(gradient, rows), _positions(input, rows))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions."""
        return Dense(_positions(gradient, rows).sum(1))


class TransposedLinearFormula(LinearFormula):
    """Linear with its weight stored as [I, O], as the Conv1D of the `transformers` library."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors x and s, in the order of the weight."""
        return Outer(_positions(input, rows), _positions(gradient, rows))


class ConvFormula(Formula):
    """Convolutions in one and two dimensions; in groups they are materialised."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors s and patches of x; in groups, their products a group."""
        patches = _patches(module, input)  # [B, I k, T]
        output = gradient.flatten(2)  # [B, O, T]
        if module.groups == 1:
            return Outer(_split(output.mT, rows), _split(patches.mT, rows))
        grouped = [t.unflatten(1, (module.groups, -1)) for t in (output, patches)]
        products = grouped[0] @ grouped[1].mT  # [B, groups, O / groups, (I / groups) k]
        return Dense(products.reshape(rows, -1, *module.weight.shape).sum(1))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions, a channel."""
        return Dense(_channel_sums(gradient, rows))


class EmbeddingFormula(Formula):
    """Embedding of indices [B, ...]."""

    def serves(self, module: Layer) -> bool:
        """Without rescaling of the weights in the forward pass, or of gradients by the batch's counts."""
        return module.max_norm is None and not module.scale_grad_by_freq

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s over the positions of each word."""
        words, width = module.weight.shape
        offsets = words * torch.arange(rows, device=input.device).unsqueeze(1)
        places = (input.reshape(rows, -1) + offsets).reshape(-1)  # [B T]
        sums = gradient.new_zeros(rows * words, width)
        sums.index_add_(0, places, gradient.reshape(-1, width))
        sums = sums.view(rows, words, width)
        if module.padding_idx is not None:
            sums[:, module.padding_idx] = 0
        return Dense(sums)

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
        return Dense(values.reshape(rows, -1, prod(module.normalized_shape)).sum(1))


class RMSNormFormula(LayerNormFormula):
    """RMSNorm over the last dimensions."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions."""
        normal = F.rms_norm(input, module.normalized_shape, eps=module.eps)
        return self._summed(module, gradient * normal, rows)


class GroupNormFormula(Formula):
    """GroupNorm on [B, C, ...]."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions, a channel."""
        normal = F.group_norm(input, module.num_groups, eps=module.eps)
        return Dense(_channel_sums(gradient * normal, rows))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions, a channel."""
        return Dense(_channel_sums(gradient, rows))


class BatchNormFormula(GroupNormFormula):
    """BatchNorm in eval mode on [B, C, ...], by its running statistics."""

    def serves(self, module: Layer) -> bool:
        """With running statistics only: without them rows see each other even in eval mode."""
        return module.running_mean is not None

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """The sum of s xhat over positions, a channel."""
        normal = F.batch_norm(input, module.running_mean, module.running_var, eps=module.eps)
        return Dense(_channel_sums(gradient * normal, rows))


FORMULAS: dict[type[nn.Module], Formula] = {
    nn.Linear: LinearFormula(),
    nn.Conv1d: ConvFormula(),
    nn.Conv2d: ConvFormula(),
    nn.Embedding: EmbeddingFormula(),
    nn.LayerNorm: LayerNormFormula(),
    nn.RMSNorm: RMSNormFormula(),
    nn.GroupNorm: GroupNormFormula(),
    nn.BatchNorm1d: BatchNormFormula(),
    nn.BatchNorm2d: BatchNormFormula(),
}


def formula_of(module: nn.Module) -> Formula | None:
    """The formula that holds for a module, or None.

    A subclass counts as its base while it keeps the base's forward pass.
    """
    for kind, formula in FORMULAS.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return formula if formula.serves(module) else None
    return TransposedLinearFormula() if _is_transposed_linear(module) else None


def _is_transposed_linear(module: nn.Module) -> bool:
    """Recognise the Conv1D of `transformers` without importing it: by its name, and a weight [I, O] to a bias [O]."""
    own = dict(module.named_parameters(recurse=False))
    if type(module).__name__ != "Conv1D" or own.keys() != {"weight", "bias"} or own["weight"].dim() != 2:
        return False
    return own["bias"].shape == own["weight"].shape[1:]


def _positions(values: Tensor, rows: int) -> Tensor:
    """[B, ..., D] or [B * T, ..., D] to [B, T, D]."""
    return values.reshape(rows, -1, values.shape[-1])


def _split(values: Tensor, rows: int) -> Tensor:
    """[B, T, D] as it is, [B * n, T, D] to [B, n T, D]."""
    return values if values.shape[0] == rows else values.reshape(rows, -1, values.shape[-1])


def _channel_sums(values: Tensor, rows: int) -> Tensor:
    """[B, C, ...] or [B * n, C, ...] summed to [B, C]."""
    channels = values.shape[1]
    return values.reshape(rows, -1, channels, prod(values.shape[2:])).sum((1, 3))


def _patches(module: Layer, input: Tensor) -> Tensor:
    """What each output position of a convolution looks at: [B, I, ...] to [B, I k, T]."""
    one = isinstance(module, nn.Conv1d)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    padded = F.pad(input, _padding(module), mode=mode)
    if one:  # a picture of height one
        padded, kernel, stride, dilation = (padded.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation))
    return F.unfold(padded, kernel, dilation=dilation, stride=stride)


def _padding(module: Layer) -> list[int]:
    """Padding for `F.pad`, which counts from the last dimension: left, right, top, bottom."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            whole = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [whole // 2, whole - whole // 2]
        else:
            each = 0 if module.padding == "valid" else module.padding[axis]
            sides += [each, each]
    return sides
