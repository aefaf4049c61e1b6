"""Fitting `eigenbasis`: passes over a sample of rows, with all statistics in float64.

1. Second moments of both sides of every parameter; their eigenbases, at most r directions a side. For factors the sides
   are the layer's inputs and output gradients at all positions, as in K-FAC (Martens and Grosse 2015, arXiv 1503.05671);
   for materialised gradients E[G^T G] and E[G G^T].
2. Energies E[(Q_o^T G Q_i)^2] of all rotated coordinates; the K1 largest over all parameters are selected, equal ones
   in the order of the parameters.
3. Only where K < K1: the selected coordinates of all rows, and their K principal components. With fewer rows than K the
   components are continued by the selected coordinates of most energy, made orthogonal to them.

Rows of a parameter that are not finite count as zero. Letters as in `eigenbasis`; n rows of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor

from pipeline.core.projection.base import Projection, Shapes
from pipeline.core.projection.eigenbasis import Eigenbasis, Part, rotated, rotated_matrix
from pipeline.core.projection.fitting import Fitter, Settings
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.sides import LONGEST, ExactSide, Side, SketchedSide
from pipeline.core.projection.streams import stream
from pipeline.core.sink import Sink
from pipeline.errors import ConfigError, LowlandError

RELATIVE_RANK = 1e-12
"""Components with less than this share of the largest one's energy are rounding and are replaced."""
NONE = torch.zeros(0, dtype=torch.int64)


class EigenbasisFitter(Fitter):
    """Fits an `Eigenbasis`; see the module."""

    def __init__(self, shapes: Shapes, dimension: int, seed: int, settings: Settings) -> None:
        """Plan the passes.

        Args:
            shapes: parameter -> shape.
            dimension: K; at most the number of coordinates that the bases have.
            seed: of the sketches of long sides.
            settings: r and K1.

        Raises:
            ConfigError: nothing to keep.
        """
        if settings.basis < 1:
            raise ConfigError(f"expected a basis size of at least 1, got {settings.basis}: mend projection.basis")
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        available = sum(prod(min(settings.basis, side) for side in as_matrix(shape)) for shape in shapes.values())
        self.dimension = min(dimension, available)
        self.selected = min(max(settings.selected, dimension), available)
        self.passes = 3 if self.dimension < self.selected else 2
        self._done = 0
        self._sides = {name: _sides(name, shape, settings.basis, seed) for name, shape in self.shapes.items()}
        self._bases: dict[str, Part] = {}
        self._energies: dict[str, Tensor] = {}
        self._rows: list[Tensor] = []
        self._projection: Eigenbasis | None = None

    @contextmanager
    def batch(
        self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Iterator[Sink]:
        """See the base."""
        if self._done == 0:
            yield _Moments(self._sides)
        elif self._done == 1:
            yield _Energies(self._bases, self._energies)
        elif self._done < self.passes and self._projection is not None:
            sketch = self._projection.sketch(rows, dtype, device)
            yield sketch
            self._rows.append(torch.nan_to_num(sketch.codes().double().cpu(), 0, 0, 0))
        else:
            raise LowlandError(f"expected {self.passes} passes, got a batch of another: call projection()")

    def end_pass(self) -> None:
        """See the base."""
        self._done += 1
        if self._done == 1:
            for name, (output, input) in self._sides.items():
                self._bases[name] = Part(output.basis(), input.basis(), NONE, NONE)
                ranks = self._bases[name].output.shape[1], self._bases[name].input.shape[1]
                self._energies[name] = torch.zeros(ranks, dtype=torch.float64)
            self._sides = {}
        elif self._done == 2:
            self._projection = Eigenbasis(self.shapes, select(self._bases, self._energies, self.selected))
        elif self._projection is not None:
            self._projection = self._projection.compressed(principal(torch.cat(self._rows), self.dimension))
            self._rows = []

    def projection(self) -> Projection:
        """See the base."""
        if self._projection is None or self._done < self.passes:
            raise LowlandError(f"expected {self.passes} passes over the sample, got {self._done}: feed it first")
        return self._projection


def _sides(name: str, shape: tuple[int, ...], rank: int, seed: int) -> tuple[Side, Side]:
    output, input = as_matrix(shape)
    return _side(f"{name} output", output, rank, seed), _side(f"{name} input", input, rank, seed)


def _side(name: str, size: int, rank: int, seed: int) -> Side:
    if size <= LONGEST:
        return ExactSide(size, min(rank, size))
    return SketchedSide(size, min(rank, size), stream(seed, "eigenbasis", name))


def select(bases: dict[str, Part], energies: dict[str, Tensor], count: int) -> dict[str, Part]:
    """The `count` coordinates of largest energy over all parameters; a parameter may get none."""
    flat = torch.cat([energy.flatten() for energy in energies.values()])
    best = flat.argsort(descending=True, stable=True)[:count].sort().values
    parts, start = {}, 0
    for name, energy in energies.items():
        own = best[(best >= start) & (best < start + energy.numel())] - start
        width = energy.shape[1]
        parts[name] = Part(bases[name].output, bases[name].input, own // width, own % width)
        start += energy.numel()
    return parts


def principal(rows: Tensor, dimension: int) -> Tensor:
    """Orthonormal [K1, K]: the leading right singular vectors of rows [n, K1], continued by coordinates of most energy."""
    count, width = rows.shape
    if count < width:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ vectors / values.clamp(min=torch.finfo(values.dtype).tiny).sqrt()
    else:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
    values, vectors = values.flip(0), vectors.flip(1)
    vectors = vectors[:, : min(dimension, int((values > RELATIVE_RANK * values[:1].clamp(min=0)).sum()))]
    missing = dimension - vectors.shape[1]
    order = rows.square().sum(0).argsort(descending=True, stable=True)[:missing]
    units = torch.zeros(width, missing, dtype=rows.dtype)
    units[order, torch.arange(missing)] = 1
    basis, factor = torch.linalg.qr(torch.cat([vectors, units], 1))
    return (basis * torch.where(factor.diagonal() < 0, -1.0, 1.0)).contiguous()


class _Moments:
    """Sink of the first pass."""

    def __init__(self, sides: dict[str, tuple[Side, Side]]) -> None:
        self._sides = sides

    def dense(self, name: str, gradient: Tensor) -> None:
        output, input = self._sides[name]
        matrix = _finite(gradient).reshape(len(gradient), *as_matrix(tuple(gradient.shape[1:])))
        output.add(matrix.mT.flatten(0, 1))
        input.add(matrix.flatten(0, 1))

    def outer(self, name: str, output: Tensor, input: Tensor) -> None:
        for side, values in zip(self._sides[name], (output, input), strict=True):
            side.add(_finite(values).flatten(0, 1))


class _Energies:
    """Sink of the second pass."""

    def __init__(self, bases: dict[str, Part], energies: dict[str, Tensor]) -> None:
        self._bases, self._energies = bases, energies

    def dense(self, name: str, gradient: Tensor) -> None:
        matrix = _finite(gradient).double().reshape(len(gradient), *as_matrix(tuple(gradient.shape[1:])))
        self._energies[name] += rotated_matrix(matrix, self._bases[name]).square().sum(0)

    def outer(self, name: str, output: Tensor, input: Tensor) -> None:
        found = rotated(_finite(output).double(), _finite(input).double(), self._bases[name])
        self._energies[name] += found.square().sum(0)


def _finite(values: Tensor) -> Tensor:
    """Rows [B, ...] as they are, zero where any of their numbers is not finite."""
    usable = values.flatten(1).isfinite().all(1)
    return values if bool(usable.all()) else torch.where(usable.view(-1, *[1] * (values.dim() - 1)), values, 0)
