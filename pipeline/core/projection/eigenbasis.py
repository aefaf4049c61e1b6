"""Eigenbasis selection: rotate both sides of a gradient into eigenbases, keep the coordinates with most energy.

A matrix parameter's gradient G = sum_t o_t i_t^T becomes Q_o^T G Q_i = sum_t (Q_o^T o_t)(Q_i^T i_t)^T, with Q_o of
[O, r_o] and Q_i of [I, r_i] the leading eigenvectors of the second moments of its sides (`sides`), at most r a side
(the bases of EK-FAC: George et al. 2018, arXiv 1806.03884). Parameters of more dimensions count as [O, the rest], a
vector of n numbers as [1, n]. Of the coordinates of all parameters together, those K1 with the largest measured energy
E[coef^2] are selected. Where K < K1 a second step follows: an orthonormal [K1, K] matrix, the principal components of
the selected coordinates (uncentred: inner products are what is to be kept).

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

from pipeline.core.projection.base import Projection, Shapes, Sketch, State
from pipeline.core.projection.factors import BLOCK_BYTES, gram_is_cheaper, gram_squares, squares
from pipeline.core.projection.kronecker import as_matrix
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
        return Part(self.output.to(device, dtype), self.input.to(device, dtype), self.a.to(device), self.b.to(device))


class Eigenbasis(Projection):
    """Selected coordinates in eigenbases, and the second step; see the module."""

    method = "eigenbasis"

    def __init__(self, shapes: Shapes, parts: Mapping[str, Part], components: Tensor | None = None) -> None:
        """Keep what was fitted.

        Args:
            shapes: parameter -> shape.
            parts: parameter -> its selected coordinates; codes are in the order of the shapes, then of a part.
            components: the second step, [K1, K] with orthonormal columns, or None.
        """
        selected = sum(len(part.a) for part in parts.values())
        super().__init__(shapes, selected if components is None else components.shape[1])
        self.selected = selected
        self._parts = {name: parts[name].pruned() for name in shapes if name in parts and len(parts[name].a)}
        self._components = components
        self._placed: dict[Place, tuple[dict[str, Part], Tensor | None]] = {}

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
        components = state.get("components")
        return cls(shapes, parts, None if components is None else torch.from_numpy(np.asarray(components)))

    def state(self) -> dict[str, NDArray[Any]]:
        """What was fitted.

        Returns:
            ranks: r_o and r_i of each parameter, [parameters, 2]; zero where nothing is selected.
            bases: Q_o and Q_i of all parameters, flattened, one after the other.
            coordinates: parameter, a and b of each selected coordinate, [K1, 3].
            components: the second step, [K1, K], where there is one.
        """
        kept = [(index, self._parts[name]) for index, name in enumerate(self.shapes) if name in self._parts]
        ranks = np.zeros((len(self.shapes), 2), np.int64)
        for index, part in kept:
            ranks[index] = part.output.shape[1], part.input.shape[1]
        bases = torch.cat([side.flatten() for _, part in kept for side in (part.output, part.input)])
        coordinates = torch.cat([torch.stack([torch.full_like(part.a, i), part.a, part.b], 1) for i, part in kept])
        state = {"ranks": ranks, "bases": bases.numpy(), "coordinates": coordinates.numpy()}
        return state if self._components is None else {**state, "components": self._components.numpy()}

    def compressed(self, components: Tensor) -> Eigenbasis:
        """The same selection followed by a second step, [K1, K]."""
        return Eigenbasis(self.shapes, self._parts, components)

    def sketch(self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Sketch:
        """An empty sketch; see the base."""
        place = (dtype, torch.device(device))
        if place not in self._placed:
            components = None if self._components is None else self._components.to(place[1], dtype)
            self._placed[place] = {name: part.to(place) for name, part in self._parts.items()}, components
        return _EigenbasisSketch(self, *self._placed[place], rows, place)


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


def rotated(output: Tensor, input: Tensor, part: Part) -> Tensor:
    """Q_o^T G Q_i of G = sum_t o_t i_t^T, [B, r_o, r_i], from factors [B, T, O] and [B, T, I]."""
    return torch.bmm((output @ part.output).mT, input @ part.input)


def rotated_matrix(gradient: Tensor, part: Part) -> Tensor:
    """Q_o^T G Q_i, [B, r_o, r_i], from G [B, O, I]."""
    return part.output.T @ (gradient @ part.input)


class _EigenbasisSketch(Sketch):
    def __init__(
        self, projection: Eigenbasis, parts: Mapping[str, Part], components: Tensor | None, rows: int, place: Place
    ) -> None:
        super().__init__(projection.shapes, rows, place[1])
        self._parts, self._components, self._dtype = parts, components, place[0]
        self._values = torch.zeros(rows, projection.selected, dtype=self._dtype, device=place[1])
        self._offsets: dict[str, int] = _offsets(parts)

    def _add(self, name: str, gradient: Tensor) -> None:
        if name in self._parts:
            matrix = gradient.to(self._dtype).reshape(gradient.shape[0], *as_matrix(self._shapes[name]))
            self._select(name, rotated_matrix(matrix, self._parts[name]))

    def _add_outer(self, name: str, output: Tensor, input: Tensor) -> None:
        output, input = output.to(self._dtype), input.to(self._dtype)
        if not gram_is_cheaper(output, input, materialised=False):
            # With that many positions the norm needs the product, which is then also the cheapest thing to rotate.
            self._add_products(name, output, input)
            return
        self._squares += gram_squares(output, input)
        if name not in self._parts:
            return
        part = self._parts[name]
        if output.shape[1] > 1:
            self._select(name, rotated(output, input, part))
            return
        left, right = output[:, 0] @ part.output, input[:, 0] @ part.input
        self._store(name, left.index_select(1, part.a) * right.index_select(1, part.b))

    def _add_products(self, name: str, output: Tensor, input: Tensor) -> None:
        """Norm and coordinates from G, a few rows at a time so that it stays in the cache."""
        size_bytes = output.shape[2] * input.shape[2] * input.element_size()
        step = max(1, BLOCK_BYTES // size_bytes)
        part = self._parts.get(name)
        found: list[Tensor] = []
        for left, right in zip(output.split(step), input.split(step), strict=True):
            product = torch.bmm(left.mT, right)
            self._squares[len(found) * step :][: len(left)] += squares(product.flatten(1))
            found.append(product.new_empty(len(left), 0, 0) if part is None else rotated_matrix(product, part))
        if part is not None:
            self._select(name, torch.cat(found))

    def _select(self, name: str, matrix: Tensor) -> None:
        """Keep the selected entries of Q_o^T G Q_i, [B, r_o, r_i]."""
        part = self._parts[name]
        self._store(name, matrix.flatten(1).index_select(1, part.a * matrix.shape[2] + part.b))

    def _store(self, name: str, codes: Tensor) -> None:
        first = self._offsets[name]
        self._values[:, first : first + codes.shape[1]] = codes

    def _codes(self) -> Tensor:
        return self._values if self._components is None else self._values @ self._components


def _offsets(parts: Mapping[str, Part]) -> dict[str, int]:
    """Where each parameter's codes begin."""
    sizes: Sequence[int] = [len(part.a) for part in parts.values()]
    return dict(zip(parts, np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int).tolist(), strict=True))
