"""DataInf (Kwon, Wu, Wu, Zou, ICLR 2024, arXiv 2310.00902): the mean of inverses in place of the inverse of the mean.

    A = (1/n) sum_i (g_i g_i^T + lambda)^-1 = (1/lambda) (1 - (1/n) sum_i g_i g_i^T / (lambda + |g_i|^2))
    pairs   g_q^T A g,    lambda = .1 x mean over rows and coordinates of g_ij^2

for each parameter apart where codes keep parameters apart (projection `kronecker`, `kronecker_pca`, `identity` with
codec float32), else for all coordinates together. Rows: the mean over validation rows. At `trained`, train rows, space
of codes. Signed, positive helped (the paper's sign reversed). Its scale is not that of the damped inverse: only ranks
compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, Rows, Stores, Sum, Summed
from pipeline.core.estimators.blockwise import Blockwise

DAMPING = 0.1
"""lambda over the mean square of a coordinate, as in the authors' code."""


@dataclass(frozen=True)
class Shrunk:
    """The sum over rows of g g^T / (lambda + |g|^2) in some coordinates, [k, k]."""

    checkpoint: str
    block: slice
    damping: float

    def __call__(self, rows: Rows) -> Sum:
        """Of some rows."""
        codes = rows.codes(self.checkpoint)[:, self.block]
        scaled = codes / (self.damping + np.square(codes).sum(1, keepdims=True))
        return Sum(scaled.T @ codes, len(codes))


@dataclass(frozen=True)
class Squares:
    """Squared coordinates at a checkpoint, [n, K]."""

    checkpoint: str

    def __call__(self, rows: Rows) -> Array:
        """Of some rows."""
        return np.square(rows.codes(self.checkpoint))


@dataclass(frozen=True)
class DataInf(Blockwise):
    """Inner products under A, block by block."""

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """A, and the mean of the validation rows."""
        squares, count = stores.total("train", at, Summed(Squares(at[0])))
        inverses = []
        for block in stores.blocks(at[0]):
            damping = DAMPING * float(squares[block].mean()) / count or 1.0  # a block of zeros has no other scale
            total = stores.total("train", at, Shrunk(at[0], block, damping)).total
            inverses.append((block, (np.eye(len(total)) - total / count) / damping))
        return cls(np.zeros(0), at[0], tuple(inverses)).asked_by(stores, at)
