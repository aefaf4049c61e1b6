"""Eigenbasis selection: rotate both sides of a gradient into eigenbases, keep the coordinates with most energy.

A matrix parameter's gradient G = sum_t o_t i_t^T becomes Q_o^T G Q_i = sum_t (Q_o^T o_t)(Q_i^T i_t)^T, with Q_o of
[O, r_o] and Q_i of [I, r_i] the leading eigenvectors of the second moments of its sides (`sides`), at most r a side
(the bases of EK-FAC: George et al. 2018, arXiv 1806.03884). Parameters of more dimensions count as [O, the rest], a
vector of n numbers as [1, n]. Of the coordinates of all parameters together, those K1 with the largest measured energy
E[coef^2] are selected. Where K < K1 a second step follows: the selected coordinates are grouped, and the principal
components of each group are kept (`blockdiagonal`, `grouping`).

The whole map has orthonormal rows: |code|^2 <= |g|^2, and what is lost of an inner product lies in the coordinates that
were left out. With whole bases and K = P nothing is lost.

Capture costs two small products a position, and G is never formed: for T = 1 only the selected products are, for T > 1
the [r_o, r_i] matrix. Columns of Q_o and Q_i that no selected coordinate needs are dropped. The fitting is in
`eigenfit`. Letters: B rows, T positions, O outputs, I inputs, r basis size, K1 selected, K compressed size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.factors import Factor, blocks, gram_is_cheaper, gram_squares, squares
from pipeline.core.projection.base import Norms, PartSketch, Projection, Shapes, Sketch, State
from pipeline.core.projection.blockdiagonal import BlockDiagonal
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.norms import Probed, gram_is_exact_and_cheap, probed, square_and_variance
from pipeline.core.projection.selected import multiply_selected
from pipeline.errors import ConfigError

Place = tuple[torch.dtype, torch.device]


@dataclass(frozen=True)
class Part:
    """The selected coordinates of one parameter: entries (a, b) of Q_o^T G Q_i.

    Attributes:
        output: Q_o, [O, r_o].
        input: Q_i, [I, r_i].
        a: column of Q_o of each of the k selected coordinates, [k].
        b: column of Q_i, [k].
    """

    output: Tensor
    input: Tensor
    a: Tensor
    b: Tensor

    def pruned(self) -> Part:
        """The same coordinates without the columns that none of them needs."""
        first, a = self.a.unique(return_inverse=True)
        second, b = self.b.unique(return_inverse=True)
        return Part(self.output[:, first].contiguous(), self.input[:, second].contiguous(), a, b)

    def to(self, place: Place) -> Part:
        """The same with bases of a dtype, on a device."""
        dtype, device = place
        # Contiguous when transposed, which is how they are multiplied with.
        output, input = (side.to(device, dtype).T.contiguous().T for side in (self.output, self.input))
        return Part(output, input, self.a.to(device), self.b.to(device))


class Eigenbasis(Projection):
    """Selected coordinates in eigenbases, and the second step; see the module."""

    method = "eigenbasis"

    def __init__(self, shapes: Shapes, parts: Mapping[str, Part], second: BlockDiagonal | None = None) -> None:
        """Keep what was fitted.

        Args:
            shapes: parameter -> shape.
            parts: parameter -> its selected coordinates; codes are in the order of the shapes, then of a part.
            second: the second step, from K1 to K, or None.

        Raises:
            ConfigError: the second step is not one of so many coordinates.
        """
        selected = sum(len(part.a) for part in parts.values())
        if second is not None and second.selected != selected:
            raise ConfigError(
                f"expected a second step of {selected} selected coordinates, got one of {second.selected}: fit it anew"
            )
        super().__init__(shapes, selected if second is None else second.dimension)
        self.selected = selected
        self._parts = {name: parts[name].pruned() for name in shapes if name in parts and len(parts[name].a)}
        self._second = second
        self._placed: dict[Place, _Placed] = {}

    @property
    def groups(self) -> int:
        """G, how many groups the second step has; 0 where there is none."""
        return 0 if self._second is None else len(self._second.components)

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """There is none without a sample.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("expected a fitted state for an eigenbasis projection, got none: fit it on a sample of rows")

    @classmethod
    def from_state(cls, shapes: Shapes, dimension: int, seed: int, state: State) -> Projection:
        """The projection whose `state()` was stored.

        Raises:
            ConfigError: the state is not one of these parameters.
        """
        _check(shapes, state)
        parts: dict[str, Part] = {}
        bases, coordinates = torch.from_numpy(np.asarray(state["bases"])), np.asarray(state["coordinates"])
        start = 0
        for index, (name, shape) in enumerate(shapes.items()):
            sides = []
            for size, rank in zip(as_matrix(shape), state["ranks"][index].tolist(), strict=True):
                sides.append(bases[start : start + size * rank].reshape(size, rank))
                start += size * rank
            own = torch.from_numpy(coordinates[coordinates[:, 0] == index, 1:].astype(np.int64))
            parts[name] = Part(*sides, *own.unbind(1))
        return cls(shapes, parts, BlockDiagonal.from_state(state))

    def state(self) -> dict[str, NDArray[Any]]:
        """What was fitted.

        Returns:
            ranks: r_o and r_i of each parameter, [parameters, 2]; zero where nothing is selected.
            bases: Q_o and Q_i of all parameters, flattened, one after the other.
            coordinates: parameter, a and b of each selected coordinate, [K1, 3].
            And the arrays of the second step, where there is one.
        """
        kept = [(index, self._parts[name]) for index, name in enumerate(self.shapes) if name in self._parts]
        ranks = np.zeros((len(self.shapes), 2), np.int64)
        for index, part in kept:
            ranks[index] = part.output.shape[1], part.input.shape[1]
        bases = torch.cat([side.flatten() for _, part in kept for side in (part.output, part.input)])
        coordinates = torch.cat([torch.stack([torch.full_like(part.a, i), part.a, part.b], 1) for i, part in kept])
        state = {"ranks": ranks, "bases": bases.numpy(), "coordinates": coordinates.numpy()}
        return state if self._second is None else {**state, **self._second.state()}

    def compressed(self, second: BlockDiagonal) -> Eigenbasis:
        """The same selection followed by a second step."""
        return Eigenbasis(self.shapes, self._parts, second)

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return _EigenbasisSketch(self, rows, (dtype, torch.device(device)), norms)

    def at(self, place: Place) -> _Placed:
        """What was fitted in a dtype, on a device."""
        if place not in self._placed:
            second = None if self._second is None else self._second.to(*place)
            parts = {name: part.to(place) for name, part in self._parts.items()}
            self._placed[place] = _Placed(self.shapes, parts, second, place)
        return self._placed[place]


class _Placed:
    """What was fitted, in a dtype and on a device, with probes for norms as far as they have been asked for."""

    def __init__(self, shapes: Shapes, parts: Mapping[str, Part], second: BlockDiagonal | None, place: Place) -> None:
        self.parts, self.second, self.offsets = parts, second, _offsets(parts)
        self._shapes, self._place = shapes, place
        self._probed: dict[str, Probed] = {}

    def probed(self, name: str) -> Probed:
        """The bases of a parameter with probes; none but those where nothing of it is selected."""
        if name not in self._probed:
            empty = [
                torch.zeros(n, 0, dtype=self._place[0], device=self._place[1]) for n in as_matrix(self._shapes[name])
            ]
            part = self.parts.get(name)
            self._probed[name] = probed(name, *((part.output, part.input) if part else empty))
        return self._probed[name]


def _check(shapes: Shapes, state: State) -> None:
    missing = [name for name in ("ranks", "bases", "coordinates") if name not in state]
    if missing:
        raise ConfigError(
            f"expected a fitted state for an eigenbasis projection, got no {', '.join(missing)}: fit it anew"
        )
    ranks = np.asarray(state["ranks"])
    needed = sum(
        int(r) * n
        for shape, row in zip(shapes.values(), ranks, strict=False)
        for r, n in zip(row, as_matrix(shape), strict=True)
    )
    if len(ranks) != len(shapes) or needed != len(state["bases"]):
        raise ConfigError(
            f"expected a fitted state of {len(shapes)} parameters and {needed} numbers of bases, got {len(ranks)} and "
            f"{len(state['bases'])}: the model has changed since, fit it anew"
        )


def rotated_matrix(gradient: Tensor, part: Part) -> Tensor:
    """Q_o^T G Q_i, [B, r_o, r_i], from G [B, O, I]."""
    return part.output.T @ (gradient @ part.input)


class _EigenbasisSketch(PartSketch):
    def __init__(self, projection: Eigenbasis, rows: int, place: Place, norms: Norms) -> None:
        super().__init__(projection.shapes, rows, place[1])
        self._fitted = projection.at(place)
        self._parts, self._exact = self._fitted.parts, norms == "exact"
        # A coordinate a line: picking lines copies whole ones, picking columns single numbers. All are written before
        # they are read, as all parameters have to arrive.
        self._values = torch.empty(projection.selected, rows, dtype=place[0], device=place[1])
        self._offsets = self._fitted.offsets

    def _add(self, name: str, gradient: Tensor) -> None:
        if name not in self._parts:
            return
        part = self._parts[name]
        if len(part.output) == 1:  # a vector: the basis of its one output is 1, as signs are fixed
            rotated = part.input.T @ gradient.to(self._values.dtype).T
            torch.index_select(rotated, 0, part.b, out=self._place(name))
        else:
            matrix = gradient.to(self._values.dtype).reshape(gradient.shape[0], *as_matrix(self._shapes[name]))
            self._select(name, rotated_matrix(matrix, self._parts[name]))

    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        positions = output.shape[1]
        if not self._exact and not gram_is_exact_and_cheap(positions):
            self._add_estimated(name, output, input)
        elif gram_is_cheaper(output, input, materialised=False):
            self._add_rotated(name, output, input)  # first: the product brings both sides into the cache
            self._squares += gram_squares(output, input)
        else:
            # With that many positions the norm needs the product, which is then also the cheapest thing to rotate.
            self._add_products(name, output, input)

    def _add_rotated(self, name: str, output: Factor, input: Factor) -> None:
        """Coordinates from rotated factors; for one position, only the selected products."""
        if name not in self._parts:
            return
        part = self._parts[name]
        left, right = output.rotated(part.output), input.rotated(part.input)
        if output.shape[1] > 1:
            self._select(name, torch.bmm(left.mT, right))
        else:
            multiply_selected(left[:, 0].T, right[:, 0].T, part.a, part.b, self._place(name))

    def _add_estimated(self, name: str, output: Factor, input: Factor) -> None:
        """Coordinates and an estimate of the norm; see `norms`."""
        block, probes = self._fitted.probed(name).rotated(output, input)
        rest, variance = square_and_variance(probes)
        self._squares += squares(block.flatten(1)) + rest
        self._variances += variance
        if name in self._parts:
            self._select(name, block)

    def _add_products(self, name: str, output: Factor, input: Factor) -> None:
        """Norm and coordinates from G, a few outputs at a time so that it stays in the cache."""
        part, inputs = self._parts.get(name), input.shape[2]
        found: Tensor | float = 0.0
        for start, entries in blocks(output, input):
            self._squares += squares(entries)
            if part is not None:
                block = entries.unflatten(1, (-1, inputs)).to(part.input.dtype)
                own = part.output[start // inputs :][: block.shape[1]]
                found = found + own.T @ (block @ part.input)
        if part is not None:
            self._select(name, found + block.new_zeros(len(block), part.output.shape[1], part.input.shape[1]))

    def _select(self, name: str, matrix: Tensor) -> None:
        """Keep the selected entries of Q_o^T G Q_i, [B, r_o, r_i]."""
        part = self._parts[name]
        self._place(name).copy_(matrix.flatten(1).index_select(1, part.a * matrix.shape[2] + part.b).T)

    def _place(self, name: str) -> Tensor:
        """Where the coordinates of a parameter go, [k, B]."""
        first = self._offsets[name]
        return self._values[first : first + len(self._parts[name].a)]

    def _codes(self) -> Tensor:
        second = self._fitted.second
        return self._values.T if second is None else second.codes(self._values.T)


def _offsets(parts: Mapping[str, Part]) -> dict[str, int]:
    """Where each parameter's codes begin."""
    sizes: Sequence[int] = [len(part.a) for part in parts.values()]
    return dict(zip(parts, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int).tolist(), strict=True))
