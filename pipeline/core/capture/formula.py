"""What a layer's formula is: per-sample gradients of its parameters from its input and the gradients of its output.

A contribution to a parameter's gradient is a part: factors, or dense. Letters: B rows, T positions, O outputs and I
inputs of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pipeline.core.factors import Factor, joined


@dataclass(frozen=True)
class Outer:
    """A weight's gradient as factors: sum over t of output[b, t] input[b, t]^T.

    Attributes:
        output: [B, T, O].
        input: [B, T, I].
    """

    output: Factor
    input: Factor


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
        return Outer(joined([part.output for part in outers]), joined([part.input for part in outers]))
    gradient = materialised(parts[0], shape)
    for part in parts[1:]:
        gradient = gradient + materialised(part, shape)
    return Dense(gradient.reshape(rows, *shape))


def materialised(part: Part, shape: torch.Size) -> Tensor:
    """The gradient of one contribution, [B, *shape]."""
    gradient = part.gradient if isinstance(part, Dense) else torch.bmm(part.output.values().mT, part.input.values())
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


def positions(values: Tensor, rows: int) -> Tensor:
    """[B, ..., D] or [B * T, ..., D] to [B, T, D]."""
    return values.reshape(rows, -1, values.shape[-1])


def position_sums(values: Tensor) -> Tensor:
    """[B, T, D] summed to [B, D]; of one position a view, for a sum copies it line by line."""
    return values[:, 0] if values.shape[1] == 1 else values.sum(1)


def channel_sums(values: Tensor, rows: int) -> Tensor:
    """[B, C, ...] or [B * n, C, ...] summed to [B, C]."""
    channels = values.shape[1]
    return values.reshape(rows, -1, channels, prod(values.shape[2:])).sum((1, 3))
