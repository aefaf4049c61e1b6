"""Multi-head attention with its projections in view.

`nn.MultiheadAttention` projects queries, keys and values by functions on slices of one parameter, where no hook looks.
While gradients are captured its forward pass is replaced by this one, which computes the same from linear steps that a
watcher is told of:

    q, k, v = x W_q^T + b_q, ...;    out = softmax(q k^T / sqrt(d) + mask) v, heads side by side, through `out_proj`

Where queries, keys and values are the same tensor, one product with the whole W = (W_q; W_k; W_v) does. That the
replacement is the same is proven with everything else by comparison with autograd (`cover`).

Letters: B rows, L query positions, S key positions, E embedding, h heads, d = E / h.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.capture.formula import Dense, Formula, Layer, Outer, Part, position_sums, positions
from pipeline.core.factors import Vectors

Watch = Callable[[str, Formula, Tensor, Tensor], Tensor]
"""Is told the weight's role, its formula, the input [B, n, E] and the output of a linear step; returns the output."""

IN_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def unrollable(module: nn.Module) -> bool:
    """Whether `attend` computes what the module does: no appended keys, and the forward pass of the library."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and module.bias_k is None
        and module.bias_v is None
        and not module.add_zero_attn
    )


@dataclass(frozen=True)
class SlicedLinear(Formula):
    """A linear step with some rows of the weight and of the bias.

    Attributes:
        first: row of the bias where the step's begin.
        last: one after their last.
        weight_first: row of the weight where the step's begin.
        weight_rows: O of the whole weight.
        bias_rows: O of the whole bias.
    """

    first: int
    last: int
    weight_first: int
    weight_rows: int
    bias_rows: int

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors s, zero in the other rows, and x."""
        width = self.last - self.first
        sides = (self.weight_first, self.weight_rows - self.weight_first - width)
        return Outer(Vectors(F.pad(positions(gradient, rows), sides)), Vectors(positions(input, rows)))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions, zero in the other rows."""
        return Dense(F.pad(position_sums(positions(gradient, rows)), (self.first, self.bias_rows - self.last)))


def attend(
    module: nn.MultiheadAttention,
    watch: Watch,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The forward pass of `module` in eval mode; arguments as there. A causal mask is always given as `attn_mask`."""
    same = query is key and key is value
    if not module.batch_first:
        query, key, value = (tensor.transpose(0, 1) for tensor in (query, key, value))
    parts = _packed(module, watch, query) if same else _separate(module, watch, (query, key, value))
    heads = [part.unflatten(2, (module.num_heads, -1)).transpose(1, 2) for part in parts]  # [B, h, n, d]
    mask = _mask(heads[0], key_padding_mask, attn_mask)
    if need_weights:
        weights = F.softmax(heads[0] @ heads[1].mT / module.head_dim**0.5 + (0 if mask is None else mask), dim=-1)
        mixed = weights @ heads[2]
    else:
        weights, mixed = None, F.scaled_dot_product_attention(heads[0], heads[1], heads[2], attn_mask=mask)
    output = module.out_proj(mixed.transpose(1, 2).flatten(2))
    if weights is not None and average_attn_weights:
        weights = weights.mean(1)
    return output if module.batch_first else output.transpose(0, 1), weights


def _packed(module: nn.MultiheadAttention, watch: Watch, tensor: Tensor) -> tuple[Tensor, ...]:
    if module.in_proj_weight is None:
        return _separate(module, watch, (tensor, tensor, tensor))
    size = len(module.in_proj_weight)
    whole = F.linear(tensor, module.in_proj_weight, module.in_proj_bias)
    return watch("in_proj_weight", SlicedLinear(0, size, 0, size, size), tensor, whole).chunk(3, dim=2)


def _separate(module: nn.MultiheadAttention, watch: Watch, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(_projected(module, watch, part, tensor) for part, tensor in enumerate(inputs))


def _projected(module: nn.MultiheadAttention, watch: Watch, part: int, tensor: Tensor) -> Tensor:
    """Queries, keys or values, as `part` is 0, 1 or 2."""
    size = module.embed_dim
    first, last, whole = part * size, (part + 1) * size, 3 * size
    if module.in_proj_weight is not None:
        role, weight = "in_proj_weight", module.in_proj_weight[first:last]
        formula = SlicedLinear(first, last, first, whole, whole)
    else:
        role = IN_PROJECTIONS[1 + part]
        weight, formula = module.get_parameter(role), SlicedLinear(first, last, 0, size, whole)
    bias = None if module.in_proj_bias is None else module.in_proj_bias[first:last]
    return watch(role, formula, tensor, F.linear(tensor, weight, bias))


def _mask(query: Tensor, padding: Tensor | None, attention: Tensor | None) -> Tensor | None:
    """What is added to the scores, [B or 1, h or 1, L or 1, S]."""
    whole = None
    if padding is not None:
        whole = _added(padding, query)[:, None, None]
    if attention is not None:
        added = _added(attention, query)
        added = added.unflatten(0, (len(query), -1)) if added.dim() == 3 else added
        whole = added if whole is None else whole + added
    return whole


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as numbers to add; a boolean one is true where not to look."""
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask
