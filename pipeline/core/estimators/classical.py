"""Classical influence (Koh and Liang, ICML 2017, arXiv 1703.04730), with their sign reversed: positive helped.

    pairs   g_q^T (C + lambda)^-1 g
    rows    the mean of it over validation rows

at `trained`, C the curvature of the train rows (or at `flat`, of the validation rows), in the space of codes. The
matrix is factored whole, so that nothing is left to a solver. Signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows, Stores
from pipeline.core.preconditioner import Preconditioner


@dataclass(frozen=True)
class Classical(PairEstimator):
    """Inner products under H^-1."""

    checkpoint: str
    preconditioner: Preconditioner

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The curvature, and the mean of the validation rows."""
        return cls(np.zeros(0), at[0], stores.preconditioner(at[0])).asked_by(stores, at)

    def ask(self, queries: Rows) -> Array:
        """H^-1 g, [q, K]."""
        return self.preconditioner.solve(queries.codes(self.checkpoint))

    def features(self, rows: Rows) -> Array:
        """g, [n, K]."""
        return rows.codes(self.checkpoint)
