"""Influence at flat validation minima (Ye, Wu, Zhang, Jin, Chen, ICML 2025, arXiv 2505.19097): FVM, and VM without SAM.

At a minimum theta of the validation loss, a change eps of a row's weight moves the weights by -eps H^-1 g, H the
Hessian of the validation loss, and to second order raises the loss of a validation row by eps^2 / 2 times

    set level, S       g^T H^-1 g            (the mean over the validation rows, without damping)
    mean of pairs, W   g^T H^-1 C H^-1 g     (the same mean where H = C + lambda)
    single point       (g_q^T H^-1 g)^2      (the query's Hessian taken as g_q g_q^T)

W = S - lambda |H^-1 g|^2. All are unsigned. C is what `curvature.kind` says: empirical Fisher, GGN, diagonal; VM and
FVM differ in how `flat` was found. They live in the space of codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores
from pipeline.core.estimators.classical import Classical
from pipeline.core.preconditioner import Preconditioner


@dataclass(frozen=True)
class SetLevel(Estimator):
    """S of rows."""

    checkpoint: str
    preconditioner: Preconditioner

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The curvature of the validation rows."""
        return cls(at[0], stores.preconditioner(at[0]))

    def rows(self, rows: Rows) -> Array:
        """S, [n]."""
        return self.preconditioner.forms(rows.codes(self.checkpoint)).s


@dataclass(frozen=True)
class MeanOfPairs(SetLevel):
    """W of rows."""

    def rows(self, rows: Rows) -> Array:
        """W, [n]."""
        return self.preconditioner.forms(rows.codes(self.checkpoint)).w


@dataclass(frozen=True)
class SinglePoint(Classical):
    """(g_q^T H^-1 g)^2 of pairs; of rows, W is its mean."""

    squared = True

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The curvature of the validation rows; no mean is needed."""
        preconditioner = stores.preconditioner(at[0])
        return cls(preconditioner.spectrum.values[:0], at[0], preconditioner)

    def rows(self, rows: Rows) -> Array:
        """W, [n]: the mean over validation rows, where C is their empirical Fisher matrix."""
        return self.preconditioner.forms(rows.codes(self.checkpoint)).w
