"""Fitting `eigenbasis`: passes over a sample of rows, with all sums in float64.

1. Second moments of both sides of every parameter (`moments`); their eigenbases, at most r directions a side.
2. Energies E[(Q_o^T G Q_i)^2] of all rotated coordinates; the K1 largest over all parameters are selected, equal ones
   in the order of the parameters. For T = 1 they are E[(Q_o^T o)^2 (Q_i^T i)^2], one matrix product a batch. A
   direction that serves few coordinates for what it costs to rotate into, at many positions, is given up, and what it
   had goes to the next largest coordinates of the others (`dear`).
3. Only where K < K1: the selected coordinates of all rows, from which `grouping` makes the second step.

The sample may be of train rows and validation rows alike: what both have in common is what scores are made of. Rows of
a parameter that are not finite count as zero. Letters as in `eigenbasis`; n rows of the sample, G groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.core.factors import Factor
from pipeline.core.projection.base import Projection, Shapes
from pipeline.core.projection.eigenbasis import Eigenbasis, Part, rotated_matrix
from pipeline.core.projection.fitting import Settings
from pipeline.core.projection.grouping import block_components, fit_bytes
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.moments import Moments, finite_rows
from pipeline.core.projection.stages import Stage, StagedFitter
from pipeline.core.sink import Sink
from pipeline.errors import ConfigError

RICH, PLAIN = (4.0, 4096), (1.5, 1024)
"""K1 where none is given, as a multiple of K and at least: in one group for a dear model, else in several."""
MOST_SELECTED = 8192
SHARE = 0.1
"""Of one of the three matrix products of a forward and backward pass: the second step then costs 3 % of them."""
LEAST_PRODUCTS = 2**16
"""Multiplications a row that either step may cost with any model: about .3 ms for 128 rows on one core."""
LEAST_WITH_POSITIONS = 2**21
"""The same for the second step where gradients are sums over positions: about 10 ms. Small layers at many positions
take longer than their multiplications tell, and a ResNet of .1 ms a row keeps .90 for .84 of recall at 1 KiB."""
FEW_GROUPS, MOST_GROUPS = 8, 32
SHARERS = 3072
"""K1 of the default K in groups. Shares of so many keep recall as it was; of 8,704 a ResNet lost .09 at 4 KiB."""
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
        given = (settings.basis, dimension, settings.selected, settings.groups)
        if min(number for number in given if number is not None) < 1:
            raise ConfigError(
                f"expected a basis, a dimension, a selection and groups of at least 1, got {given[0]}, {given[1]}, "
                f"{given[2]} and {given[3]}: mend the section projection"
            )
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._dimension, self._selected, self._groups = dimension, settings.selected, settings.groups
        self._ranks: list[int] = []
        super().__init__(Moments(self._shapes, settings.basis, seed))

    def end_bytes(self, rows: int, dtype: torch.dtype = torch.float32) -> int:
        """See the base: of the selected coordinates of all rows, and of the second step that is made of them."""
        if not isinstance(self._now, _Rows):
            return 0
        return fit_bytes(rows, self._now.selection.dimension, self._dimension, self._groups or 1, dtype.itemsize)

    @property
    def chosen(self) -> dict[str, Any]:
        """See the base: r of each kind of parameter, K1 coordinates, and G groups, 0 where there is no second step."""
        fitted = self.projection()
        assert isinstance(fitted, Eigenbasis)
        return {"basis": self._ranks, "selected": fitted.selected, "groups": fitted.groups}

    def _after(self, stage: Stage) -> Stage | Projection:
        if isinstance(stage, Moments):
            self._ranks = stage.ranks()
            self._selected, groups = second_step(self._dimension, self._selected, stage.products(), stage.positions)
            self._groups = self._groups or groups
            return _Energies(
                {name: Part(*bases, NONE, NONE) for name, bases in stage.bases().items()}, stage.products()
            )
        if isinstance(stage, _Energies):
            selection = Eigenbasis(self._shapes, stage.best(max(self._selected or 0, self._dimension)))
            return _Rows(selection) if selection.dimension > self._dimension else selection
        assert isinstance(stage, _Rows)
        return stage.selection.compressed(block_components(stage.all(), self._dimension, self._groups or 1))


class _Energies(Stage):
    """The second pass: energies of all rotated coordinates; a sink itself."""

    def __init__(self, bases: dict[str, Part], products: float) -> None:
        self._bases, self._products = bases, products
        self._positions: dict[str, int] = {}  # where there are several
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
        if output.shape[1] > 1:
            self._positions[name] = max(self._positions.get(name, 0), output.shape[1])
        part = self._bases[name].to((input.dtype, input.device))
        left, right = output.rotated(part.output), input.rotated(part.input)
        if output.shape[1] == 1:
            left, right = (_exact(side[:, 0]).square() for side in (left, right))
            self._sums[name] += left.T @ right
        else:
            self._sums[name] += _exact(torch.bmm(left.mT, right)).square().sum(0)

    def best(self, count: int) -> dict[str, Part]:
        """The `count` coordinates of largest energy over all parameters; a parameter may get none.

        Beyond 3 T O I / K1 of all layers, a direction costs each coordinate that it serves more than its share of what
        a forward and backward pass costs. Whoever asks for a larger K1 than the default's wants them all the same.
        """
        allowed = max(3 * self._products, LEAST_PRODUCTS) / min(count, SHARERS)
        first, left = largest(self._sums, count), {name: energy.clone() for name, energy in self._sums.items()}
        for name, positions in self._positions.items():
            # What a direction costs a row: one product at each position with every number of a side.
            costs = [positions * len(side) for side in (self._bases[name].output, self._bases[name].input)]
            rows, columns = dear(first[name], costs, left[name].shape, allowed)
            left[name][rows, :], left[name][:, columns] = -1, -1
        chosen = largest(left, count)
        if sum(len(a) for a, _ in chosen.values()) < sum(len(a) for a, _ in first.values()):
            chosen = first
        return {name: replace(self._bases[name], a=a, b=b) for name, (a, b) in chosen.items()}


class _Rows(Stage):
    """The third pass: the selected coordinates of all rows."""

    def __init__(self, selection: Eigenbasis) -> None:
        self.selection = selection
        self._rows: list[Tensor] = []

    @contextmanager
    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> Iterator[Sink]:
        sketch = self.selection.sketch(rows, dtype, device)
        yield sketch
        self._rows.append(sketch.codes().cpu())

    def all(self) -> Tensor:
        """All rows, [n, K1] float64."""
        return torch.cat([torch.zeros(0, self.selection.dimension, dtype=torch.float64), *self._rows])


def largest(energies: Mapping[str, Tensor], count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Places (a, b) of the `count` largest of all matrices' entries; negative ones are none."""
    flat = torch.cat([energy.flatten() for energy in energies.values()])
    places = flat.argsort(descending=True, stable=True)[: min(count, int((flat >= 0).sum()))].sort().values
    found, start = {}, 0
    for name, energy in energies.items():
        own = places[(places >= start) & (places < start + energy.numel())] - start
        found[name] = own // energy.shape[1], own % energy.shape[1]
        start += energy.numel()
    return found


def dear(places: tuple[Tensor, Tensor], costs: Sequence[float], sizes: Sequence[int], allowed: float) -> list[Tensor]:
    """Directions of both sides that cost more than is allowed for all coordinates that they serve, which may be none.

    Args:
        places: a and b of the coordinates, [k] each.
        costs: multiplications a row of a direction of either side.
        sizes: r_o and r_i.
        allowed: multiplications a row and coordinate.
    """
    sides = zip(places, costs, sizes, strict=True)
    return [torch.nonzero(cost > allowed * torch.bincount(own, minlength=size)).flatten() for own, cost, size in sides]


def second_step(dimension: int, selected: int | None, products: float, positions: bool = False) -> tuple[int, int]:
    """K1 and the number of groups G, a power of two; K1 = K where there is no second step.

    The fewest groups for which K1 K / G multiplications are allowed. Where K1 is not given: many coordinates in one
    group if their share of a pass is allowed, or in a few groups if the least that any model may cost is; else fewer
    coordinates in groups, else none.

    Args:
        dimension: K.
        selected: K1, if it is given.
        products: T O I of all layers, what a row costs in one of the matrix products of a pass through the model.
        positions: whether there are layers with T > 1.
    """
    share, least = SHARE * products, LEAST_WITH_POSITIONS if positions else LEAST_PRODUCTS
    allowed = max(share, least)
    if selected is not None:
        return selected, min(_groups(selected, dimension, allowed), MOST_GROUPS)
    rich, plain = (min(max(int(times * dimension), lowest), MOST_SELECTED) for times, lowest in (RICH, PLAIN))
    if rich > dimension:
        if rich * dimension <= share:
            return rich, 1
        groups = _groups(rich, dimension, LEAST_WITH_POSITIONS)
        if positions and share < LEAST_WITH_POSITIONS and groups <= FEW_GROUPS:
            return rich, groups
    groups = _groups(plain, dimension, allowed)
    return (plain, groups) if plain > dimension and groups <= MOST_GROUPS else (dimension, 1)


def _groups(selected: int, dimension: int, allowed: float) -> int:
    groups = 1
    while selected * dimension > groups * allowed:
        groups *= 2
    return groups


def _exact(values: Tensor) -> Tensor:
    """Finite rows in float64 where there is float64: not on every device."""
    return finite_rows(values).cpu().double()
