"""Where a model's parameters are used: layers with a known formula, attention layers, and where they have the batch.

The batch is found in a layer's tensors by their *layout*:

* "rows": first, maybe flattened together with positions: [B, ...] or [B * T, ...];
* "shared": nowhere: the input is the same for all rows (positions, say: [T] or [1, T]) and the output is broadcast
  later. The output is expanded to B rows so that the rows' gradients stay apart;
* "second": after the positions: [T, B, ...].

What a layout cannot serve, `cover` finds out by comparison with autograd.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import nn

from pipeline.core.capture.attention import unrollable
from pipeline.core.capture.formula import Formula
from pipeline.core.capture.formulas import formula_of

Layout = Literal["rows", "shared", "second"]


@dataclass(frozen=True)
class Use:
    """A module that holds parameters to be captured.

    Attributes:
        module: the layer.
        formula: its gradients.
        weight: name of its weight, None if that is not captured.
        bias: the same for its bias.
        layout: where its tensors have the batch.
    """

    module: nn.Module
    formula: Formula
    weight: str | None
    bias: str | None
    layout: Layout


@dataclass(frozen=True)
class Attention:
    """An attention layer whose projections are to be seen.

    Attributes:
        module: the layer.
        names: role -> name, of those of its own parameters that are captured.
    """

    module: nn.MultiheadAttention
    names: dict[str, str]


def servable(model: nn.Module) -> set[str]:
    """Names of the parameters that belong to a layer with a known formula."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]
        for module in model.modules()
        for role, parameter in module.named_parameters(recurse=False)
        if (role in ("weight", "bias") and formula_of(module) is not None) or unrollable(module)
    }


def uses(model: nn.Module, wanted: frozenset[str], layouts: Mapping[str, Layout]) -> list[Use]:
    """All modules with a known formula that hold a wanted parameter, also under a name of its own for a tied one."""
    found = []
    for module, own in _own(model, wanted):
        formula = formula_of(module)
        weight, bias = own.get("weight"), own.get("bias")
        if formula is not None and (weight or bias):
            layout = layouts.get(weight or "", layouts.get(bias or "", "rows"))
            found.append(Use(module, formula, weight, bias, layout))
    return found


def attentions(model: nn.Module, wanted: frozenset[str]) -> list[Attention]:
    """All attention layers that hold a wanted parameter, be it in their output projection."""
    inner = {id(module) for module, own in _own(model, wanted) if own}
    return [
        Attention(module, own)
        for module, own in _own(model, wanted)
        if isinstance(module, nn.MultiheadAttention) and unrollable(module) and (own or id(module.out_proj) in inner)
    ]


def _own(model: nn.Module, wanted: frozenset[str]) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Modules, with role and name of those of their own parameters that are wanted."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for module in model.modules():
        own = {role: names[id(parameter)] for role, parameter in module.named_parameters(recurse=False)}
        yield module, {role: name for role, name in own.items() if name in wanted}
