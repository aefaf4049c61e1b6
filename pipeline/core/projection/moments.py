"""The pass that `eigenbasis` and `kronecker_pca` begin with: second moments of both sides of every parameter.

For factors these are the layer's inputs and output gradients at up to `MOMENT_POSITIONS` positions, as in K-FAC
(Martens and Grosse 2015, arXiv 1503.05671); for materialised gradients E[G^T G] and E[G G^T]. Measured on an MLP and a
CNN, the latter for factors, too, makes no difference of more than .005 in recall or rank correlation, and costs G where
T > 1. Rows of a parameter that are not finite count as zero.

A basis has r directions at most. Where none is given r depends on T, for what rotation costs: with T = 1 a direction
costs little beside the layer, and the columns that are not needed are dropped later.

Letters: B rows, T positions, O outputs and I inputs, r size of a basis.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch
from torch import Tensor

from pipeline.core.factors import Factor
from pipeline.core.projection.base import Shapes
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.sides import LONGEST, ExactSide, Side, SketchedSide
from pipeline.core.projection.stages import Stage
from pipeline.core.projection.streams import stream
from pipeline.core.sink import Sink

MOMENT_POSITIONS = 64
"""Positions of a row that its second moments are taken from: neighbours tell little that is new, and each costs n^2."""


BASIS = 192
"""r where none is given, T = 1 and for materialised gradients."""
BASIS_OF_POSITIONS = 64
"""The same for T > 1."""


class Moments(Stage):
    """Second moments of all sides; a sink itself."""

    def __init__(self, shapes: Shapes, rank: int | None, seed: int) -> None:
        """Of all sides of these parameters.

        Args:
            shapes: parameter -> shape.
            rank: r at most; None: by the number of positions.
            seed: of the sketches of long sides.
        """
        self._shapes, self._rank, self._seed = shapes, rank, seed
        self._sides: dict[str, tuple[Side, Side]] = {}
        self._with_positions: set[str] = set()
        self._rows = 0
        self._products = 0

    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Sink]:
        """See the base."""
        self._rows += rows
        return nullcontext(self)

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        output, input = self._sides_of(name, 1)
        matrix = finite_rows(gradient).reshape(len(gradient), *as_matrix(tuple(gradient.shape[1:])))
        output.add(matrix.mT.flatten(0, 1))
        input.add(matrix.flatten(0, 1))

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        self._products += prod(output.shape) * input.shape[2]
        for side, factor in zip(self._sides_of(name, output.shape[1]), (output, input), strict=True):
            factor.feed(side, MOMENT_POSITIONS)

    def products(self) -> float:
        """Multiplications a row in one of the three matrix products of a pass through the layers, T O I summed."""
        return self._products / max(1, self._rows)

    @property
    def positions(self) -> bool:
        """Whether any gradient is a sum over positions."""
        return bool(self._with_positions)

    def ranks(self) -> list[int]:
        """r of all parameters, each number once, ascending: shorter sides have as many directions as numbers."""
        return sorted({self._rank_of(name) for name in self._shapes})

    def bases(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Parameter -> leading eigenvectors of its sides, [O, r_o] and [I, r_i], largest eigenvalue first."""
        found = {}
        for name in self._shapes:
            output, input = self._sides_of(name, 1)
            rank = self._rank_of(name)
            found[name] = output.basis(rank), input.basis(rank)
        return found

    def _sides_of(self, name: str, positions: int) -> tuple[Side, Side]:
        """Made when the first gradients arrive: a sketch has to know its r."""
        if positions > 1:
            self._with_positions.add(name)
        if name not in self._sides:
            self._sides[name] = _sides(name, self._shapes[name], self._rank_of(name), self._seed)
        return self._sides[name]

    def _rank_of(self, name: str) -> int:
        return self._rank or (BASIS_OF_POSITIONS if name in self._with_positions else BASIS)


def finite_rows(values: Tensor) -> Tensor:
    """Rows [B, ...] as they are, zero where any of their numbers is not finite."""
    usable = values.reshape(len(values), -1).isfinite().all(1)
    return values if bool(usable.all()) else torch.where(usable.view(-1, *[1] * (values.dim() - 1)), values, 0)


def _sides(name: str, shape: tuple[int, ...], rank: int, seed: int) -> tuple[Side, Side]:
    output, input = as_matrix(shape)
    return _side(f"{name} output", output, rank, seed), _side(f"{name} input", input, rank, seed)


def _side(name: str, size: int, rank: int, seed: int) -> Side:
    if size <= LONGEST:
        return ExactSide(size)
    return SketchedSide(size, min(rank, size), stream(seed, "eigenbasis", name))
