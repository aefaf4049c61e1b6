"""A turn of the K coordinates that puts the directions of most energy on axes of their own: r Householder reflections.

A code that is rounded coordinate by coordinate loses directions of low energy where they lie across coordinates of high
energy, and preconditioning asks for just these. The turn is orthogonal, so inner products, norms and spectra stay as
they were. With reflectors y_1 ... y_r, a row g becomes g H_1 H_2 ... H_r, H_i = I - 2 y_i y_i^T / |y_i|^2, all at once:

    g - (g Y) T Y^T,    T^-1 = striu(Y^T Y) + diag(|y_i|^2) / 2

(the compact form of Schreiber and Van Loan, SIAM J. Sci. Stat. Comput. 10, 1989, with an inverse in place of its
recurrence): 4 K r operations a row, where a matrix takes 2 K^2.

The first r axes of the result are the leading eigenvectors of the sample's E[g g^T], each of their own energy; the
other axes span what is left, in no order. Letters: n rows, B rows of a batch, K coordinates, r reflections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.factors import Factor
from pipeline.core.projection.base import Norms, Projection, Shapes, Sketch, State
from pipeline.errors import LowlandError

Array = NDArray[Any]
Place = tuple[torch.dtype, torch.device]

REFLECTORS = "reflectors"
OPERATIONS = 2**15
"""K x r at most: some .2 ms for 128 rows on one core."""
ROWS_EACH = 4
"""Sample rows a direction: on fewer, directions are those of the sample and not those of the rows to come."""
RELATIVE_ENERGY = 1e-10
"""Directions of less energy than this share of the first one's are rounding of the Gram matrix."""


class Turned(Projection):
    """A projection followed by a turn."""

    def __init__(self, inner: Projection, reflectors: Array) -> None:
        """Follow `inner` by reflectors [K, r]; those that are zero reflect nothing."""
        super().__init__(inner.shapes, inner.dimension)
        self.method = inner.method  # type: ignore[misc]  # a turn keeps all that a method is about
        self._inner, self._reflectors = inner, reflectors
        self._placed: dict[Place, tuple[Tensor, Tensor]] = {}

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """There is none without another projection.

        Raises:
            LowlandError: always.
        """
        raise LowlandError("expected a projection to turn, got a seed: call turned(projection, codes)")

    def state(self) -> dict[str, Array]:
        """What the projection is made of, and `reflectors`."""
        return {**self._inner.state(), REFLECTORS: self._reflectors}

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        left, right = self._factors((dtype, torch.device(device)))
        return _TurnedSketch(self._inner.sketch(rows, dtype, device, norms), left, right)

    def _factors(self, place: Place) -> tuple[Tensor, Tensor]:
        """Y [K, r] and T Y^T [r, K]."""
        if place not in self._placed:
            left, right = (torch.from_numpy(side) for side in compact(self._reflectors))
            # Contiguous when transposed, which is how they are multiplied with.
            sides = (side.to(place[1], place[0]).T.contiguous().T for side in (left, right))
            self._placed[place] = next(sides), next(sides)
        return self._placed[place]


class _TurnedSketch(Sketch):
    """A sketch whose codes are turned; all else is the inner one's."""

    def __init__(self, inner: Sketch, left: Tensor, right: Tensor) -> None:
        self._inner, self._left, self._right = inner, left, right
        self._codes: Tensor | None = None

    def dense(self, name: str, gradient: Tensor) -> None:
        """See the base."""
        self._inner.dense(name, gradient)

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See the base."""
        self._inner.outer(name, output, input)

    def codes(self) -> Tensor:
        """See the base; contiguous when transposed, which is how they are encoded."""
        if self._codes is None:
            columns = self._inner.codes().T
            self._codes = columns.addmm_(self._right.T, self._left.T @ columns, alpha=-1).T
        return self._codes

    def squared_norms(self) -> Tensor:
        """See the base."""
        return self._inner.squared_norms()

    def squared_norm_errors(self) -> Tensor:
        """See the base."""
        return self._inner.squared_norm_errors()


def turned(projection: Projection, codes: Array) -> tuple[Projection, Array]:
    """A projection turned for rows like these, and what it makes of them.

    Args:
        projection: what gave the codes.
        codes: [n, K] of rows that it was not fitted on; rows that are zero or not finite count for nothing.

    Returns:
        The projection and turned codes [n, K] float32; both as they are where the rows are too few to tell directions.
    """
    norms = np.linalg.norm(codes.astype(np.float64), axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    reflectors = fit_reflectors(codes[usable] / norms[usable, None])
    if not reflectors.shape[1]:
        return projection, codes
    left, right = compact(reflectors)
    with np.errstate(invalid="ignore"):  # a row that is not finite stays so, and harms no other
        return Turned(projection, reflectors), (codes - codes @ left @ right).astype(np.float32)


def as_stored(projection: Projection, state: State) -> Projection:
    """A projection with the turn of its state, if there is one."""
    return Turned(projection, np.asarray(state[REFLECTORS])) if REFLECTORS in state else projection


def compact(reflectors: Array) -> tuple[Array, Array]:
    """Y [K, r] and T Y^T [r, K] of reflectors, float64."""
    y = reflectors.astype(np.float64)
    products = y.T @ y
    half = np.diag(products) / 2
    inverse = np.triu(products, 1) + np.diag(np.where(half > 0, half, 1.0))
    return y, np.linalg.solve(inverse, y.T)


def fit_reflectors(units: Array) -> Array:
    """Reflectors [K, r] float32 for rows of unit length like these, [n, K] float64; r may be 0."""
    found = leading_directions(units, count_of(*units.shape))
    if not found.shape[1]:
        return found.astype(np.float32)
    packed, factors = np.linalg.qr(found, mode="raw")
    reflectors = np.tril(packed.T, -1) + np.eye(*found.shape)
    # LAPACK's factor 0 says that the direction is on its axis already.
    return np.where(factors > 0, reflectors, 0.0).astype(np.float32)


def count_of(rows: int, dimension: int) -> int:
    """How many directions so many sample rows [n, K] give, at the cost that is allowed."""
    return min(rows // ROWS_EACH, dimension // 2, OPERATIONS // dimension)


def leading_directions(rows: Array, count: int) -> Array:
    """Eigenvectors of most energy of rows^T rows, [K, r], r <= count, by the Gram matrix of the rows."""
    energies, mixtures = np.linalg.eigh(rows @ rows.T)
    energies, mixtures = energies[::-1][:count], mixtures[:, ::-1][:, :count]
    kept = energies > RELATIVE_ENERGY * max(energies.max(initial=0), 0)
    directions: Array = rows.T @ mixtures[:, kept] / np.sqrt(energies[kept])
    return directions
