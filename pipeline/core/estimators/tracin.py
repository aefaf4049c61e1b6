"""TracIn (Pruthi, Liu, Sundararajan, Kale, NeurIPS 2020, arXiv 2002.08484): TracInCP over checkpoints of the training.

    pairs   sum over checkpoints c of eta_c g_q(c)^T g(c)

eta_c the learning rate at c. With `checkpoints.epochs` these are the epochs named there; without, `trained` alone with
rate 1 ("last checkpoint"). Rows: the mean over validation rows. Signed, positive helped, in the space of each
checkpoint's codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows, Stores


@dataclass(frozen=True)
class TracIn(PairEstimator):
    """Sums of inner products, of features that stand side by side."""

    checkpoints: tuple[str, ...]
    rates: tuple[float, ...]

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """Learning rates, and the mean of the validation rows."""
        return cls(np.zeros(0), tuple(at), tuple(stores.rate(each) for each in at)).asked_by(stores, at)

    def ask(self, queries: Rows) -> Array:
        """eta_c g(c) for all c, [q, K summed over checkpoints]."""
        pairs = zip(self.checkpoints, self.rates, strict=True)
        return np.concatenate([rate * queries.codes(each) for each, rate in pairs], 1)

    def features(self, rows: Rows) -> Array:
        """g(c) for all c, [n, K summed over checkpoints]."""
        return np.concatenate([rows.codes(each) for each in self.checkpoints], 1)
