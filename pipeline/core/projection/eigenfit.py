"""Fitting `eigenbasis`: passes over a sample of rows, with all sums in float64.

1. Second moments of both sides of every parameter (`moments`); their eigenbases, at most r directions a side.
2. Energies E[(Q_o^T G Q_i)^2] of all rotated coordinates; the K1 largest over all parameters are selected, equal ones
   in the order of the parameters. For T = 1 they are E[(Q_o^T o)^2 (Q_i^T i)^2], one matrix product a batch.
3. Only where K < K1: the selected coordinates of all rows, and their K principal components. With fewer rows than K the
   components are continued by the selected coordinates of most energy, made orthogonal to them.

Rows of a parameter that are not finite count as zero. Letters as in `eigenbasis`; n rows of the sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from pipeline.core.factors import Factor
from pipeline.core.projection.base import Projection, Shapes
from pipeline.core.projection.eigenbasis import Eigenbasis, Part, rotated_matrix
from pipeline.core.projection.fitting import Settings
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.moments import Moments, finite_rows
from pipeline.core.projection.sides import signed
from pipeline.core.projection.stages import Stage, StagedFitter
from pipeline.core.sink import Sink
from pipeline.errors import ConfigError

RELATIVE_RANK = 1e-12
"""Components with less than this share of the largest one's energy are rounding and are replaced."""
AUTO_SELECTED = 4096
AUTO_SHARE = 0.1
"""Of one of the three matrix products of a forward and backward pass: the second step then costs 3 % of them."""
NONE = torch.zeros(0, dtype=torch.int64)


class EigenbasisFitter(StagedFitter):
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
        super().__init__(Moments(self._shapes, settings.basis, seed))

    def _after(self, stage: Stage) -> Stage | Projection:
        if isinstance(stage, Moments):
            return self._after_moments(stage)
        if isinstance(stage, _Energies):
            selection = Eigenbasis(self._shapes, stage.best(self._selected or self._dimension))
            return _Rows(selection) if selection.dimension > self._dimension else selection
        assert isinstance(stage, _Rows)
        return stage.selection.compressed(principal(torch.cat(stage.rows), self._dimension))

    def _after_moments(self, stage: Moments) -> Stage:
        wanted = automatic(self._dimension, stage.products()) if self._selected is None else self._selected
        self._selected = min(max(wanted, self._dimension), self._available)
        return _Energies({name: Part(*bases, NONE, NONE) for name, bases in stage.bases().items()})


class _Energies(Stage):
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

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        # In the precision of capture: what is wanted is which coordinates are large.
        part = self._bases[name].to((input.dtype, input.device))
        left, right = output.rotated(part.output), input.rotated(part.input)
        if output.shape[1] == 1:
            left, right = (_exact(side[:, 0]).square() for side in (left, right))
            self._sums[name] += left.T @ right
        else:
            self._sums[name] += _exact(torch.bmm(left.mT, right)).square().sum(0)

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


class _Rows(Stage):
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


def _exact(values: Tensor) -> Tensor:
    """Finite rows in float64 where there is float64: not on every device."""
    return finite_rows(values).cpu().double()
