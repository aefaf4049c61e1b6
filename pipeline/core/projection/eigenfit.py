"""Fitting `eigenbasis`: passes over a sample of rows, with all statistics in float64.

1. Second moments of both sides of every parameter; their eigenbases, at most r directions a side. For factors these
   are the layer's inputs and output gradients at all positions, as in K-FAC (Martens and Grosse 2015, arXiv
   1503.05671); for materialised gradients E[G^T G] and E[G G^T]. Measured on an MLP and a CNN, the latter for factors,
   too, makes no difference of more than .005 in recall or rank correlation, and costs G where T > 1.
2. Energies E[(Q_o^T G Q_i)^2] of all rotated coordinates; the K1 largest over all parameters are selected, equal ones
   in the order of the parameters.
3. Only where K < K1: the selected coordinates of all rows, and their K principal components. With fewer rows than K the
   components are continued by the selected coordinates of most energy, made orthogonal to them.

Rows of a parameter that are not finite count as zero. Letters as in `eigenbasis`; n rows of the sample.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from pipeline.core.projection.base import Projection, Shapes
from pipeline.core.projection.eigenbasis import Eigenbasis, Part, rotated, rotated_matrix
from pipeline.core.projection.fitting import Fitter, Settings
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.sides import LONGEST, ExactSide, Side, SketchedSide, signed
from pipeline.core.projection.streams import stream
from pipeline.core.sink import Sink
from pipeline.errors import ConfigError, LowlandError

RELATIVE_RANK = 1e-12
"""Components with less than this share of the largest one's energy are rounding and are replaced."""
AUTO_SELECTED = 4096
AUTO_SHARE = 0.1
"""Of one of the three matrix products of a forward and backward pass: the second step then costs 3 % of them."""
NONE = torch.zeros(0, dtype=torch.int64)


class EigenbasisFitter(Fitter):
    """Fits an `Eigenbasis`; see the module."""

    def __init__(self, shapes: Shapes, dimension: int, seed: int, settings: Settings) -> None:
        """Plan the passes.

        Args:
            shapes: parameter -> shape.
            dimension: K; fewer where the bases have fewer coordinates.
            seed: of the sketches of long sides.
            settings: r and K1.

        Raises:
            ConfigError: r, K or K1 is below one.
        """
        if min(settings.basis, dimension, settings.selected or dimension) < 1:
            raise ConfigError(
                f"expected a basis, a dimension and a selection of at least 1, got {settings.basis}, {dimension} and "
                f"{settings.selected}: mend the section projection"
            )
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._available = sum(prod(min(settings.basis, n) for n in as_matrix(shape)) for shape in shapes.values())
        self._dimension, self._selected = min(dimension, self._available), settings.selected
        self._stage: _Stage = _Moments(self._shapes, settings.basis, seed)
        self._projection: Projection | None = None

    @property
    def done(self) -> bool:
        """See the base."""
        return self._projection is not None

    @contextmanager
    def batch(
        self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Iterator[Sink]:
        """See the base."""
        if self.done:
            raise LowlandError("expected no further pass over the sample, got a batch: call projection()")
        with self._stage.batch(rows, dtype, device) as sink:
            yield sink

    def end_pass(self) -> None:
        """See the base."""
        stage = self._stage
        if isinstance(stage, _Moments):
            wanted = automatic(self._dimension, stage.products()) if self._selected is None else self._selected
            self._selected = min(max(wanted, self._dimension), self._available)
            self._stage = _Energies(stage.bases())
        elif isinstance(stage, _Energies):
            selection = Eigenbasis(self._shapes, stage.best(self._selected or self._dimension))
            if selection.dimension > self._dimension:
                self._stage = _Rows(selection)
            else:
                self._projection = selection
        elif isinstance(stage, _Rows):
            self._projection = stage.selection.compressed(principal(torch.cat(stage.rows), self._dimension))

    def projection(self) -> Projection:
        """See the base."""
        if self._projection is None:
            raise LowlandError("expected further passes over the sample before there is a projection: feed it first")
        return self._projection


class _Stage(ABC):
    """What one pass gathers."""

    @abstractmethod
    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Sink]:
        """A sink for a batch."""


class _Moments(_Stage):
    """The first pass: second moments of all sides; a sink itself."""

    def __init__(self, shapes: Shapes, rank: int, seed: int) -> None:
        self._sides = {name: _sides(name, shape, rank, seed) for name, shape in shapes.items()}
        self._rows = 0
        self._products = 0

    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Sink]:
        self._rows += rows
        return nullcontext(self)

    def dense(self, name: str, gradient: Tensor) -> None:
        output, input = self._sides[name]
        matrix = _finite(gradient).reshape(len(gradient), *as_matrix(tuple(gradient.shape[1:])))
        output.add(matrix.mT.flatten(0, 1))
        input.add(matrix.flatten(0, 1))

    def outer(self, name: str, output: Tensor, input: Tensor) -> None:
        self._products += output.numel() * input.shape[2]
        for side, values in zip(self._sides[name], (output, input), strict=True):
            side.add(_finite(values).flatten(0, 1))

    def products(self) -> float:
        """Multiplications a row in one of the three matrix products of a pass through the layers, T O I summed."""
        return self._products / max(1, self._rows)

    def bases(self) -> dict[str, Part]:
        """Whole bases, with nothing selected."""
        return {name: Part(output.basis(), input.basis(), NONE, NONE) for name, (output, input) in self._sides.items()}


class _Energies(_Stage):
    """The second pass: energies of all rotated coordinates; a sink itself."""

    def __init__(self, bases: dict[str, Part]) -> None:
        self._bases = bases
        self._sums = {
            name: torch.zeros(part.output.shape[1], part.input.shape[1], dtype=torch.float64)
            for name, part in bases.items()
        }

    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Sink]:
        return nullcontext(self)

    def dense(self, name: str, gradient: Tensor) -> None:
        matrix = _exact(gradient).reshape(len(gradient), *as_matrix(tuple(gradient.shape[1:])))
        self._sums[name] += rotated_matrix(matrix, self._bases[name]).square().sum(0)

    def outer(self, name: str, output: Tensor, input: Tensor) -> None:
        found = rotated(_exact(output), _exact(input), self._bases[name])
        self._sums[name] += found.square().sum(0)

    def best(self, count: int) -> dict[str, Part]:
        """The `count` coordinates of largest energy over all parameters; a parameter may get none."""
        flat = torch.cat([energy.flatten() for energy in self._sums.values()])
        places = flat.argsort(descending=True, stable=True)[:count].sort().values
        parts, start = {}, 0
        for name, energy in self._sums.items():
            own = places[(places >= start) & (places < start + energy.numel())] - start
            width = energy.shape[1]
            parts[name] = replace(self._bases[name], a=own // width, b=own % width)
            start += energy.numel()
        return parts


class _Rows(_Stage):
    """The third pass: the selected coordinates of all rows."""

    def __init__(self, selection: Eigenbasis) -> None:
        self.selection = selection
        self.rows: list[Tensor] = []

    @contextmanager
    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> Iterator[Sink]:
        sketch = self.selection.sketch(rows, dtype, device)
        yield sketch
        self.rows.append(_exact(sketch.codes()))


def automatic(dimension: int, products: float) -> int:
    """K1 where none is given: `AUTO_SELECTED` if the step costs at most `AUTO_SHARE` of `products`, otherwise K."""
    return AUTO_SELECTED if AUTO_SELECTED * dimension <= AUTO_SHARE * products else dimension


def _sides(name: str, shape: tuple[int, ...], rank: int, seed: int) -> tuple[Side, Side]:
    output, input = as_matrix(shape)
    return _side(f"{name} output", output, rank, seed), _side(f"{name} input", input, rank, seed)


def _side(name: str, size: int, rank: int, seed: int) -> Side:
    if size <= LONGEST:
        return ExactSide(size, min(rank, size))
    return SketchedSide(size, min(rank, size), stream(seed, "eigenbasis", name))


def principal(rows: Tensor, dimension: int) -> Tensor:
    """Orthonormal [K1, K]: leading right singular vectors of rows [n, K1], continued by coordinates of most energy."""
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
    return signed(torch.linalg.qr(torch.cat([vectors, units], 1)).Q)


def _finite(values: Tensor) -> Tensor:
    """Rows [B, ...] as they are, zero where any of their numbers is not finite."""
    usable = values.reshape(len(values), -1).isfinite().all(1)
    return values if bool(usable.all()) else torch.where(usable.view(-1, *[1] * (values.dim() - 1)), values, 0)


def _exact(values: Tensor) -> Tensor:
    """Finite rows in float64 where there is float64: not on every device."""
    return _finite(values).cpu().double()
