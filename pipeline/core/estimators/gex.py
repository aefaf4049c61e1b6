"""GEX (Kim, Kim, Yang, NeurIPS 2023): influence by a geometric ensemble, without a gradient.

    D_m(z)  = loss of z at member m - max(loss of z at `trained`, .05)
    pairs   (1/M) sum over m of D_m(z_q) D_m(z)         signed, positive: helped
    rows    (1/M) sum over m of D_m(z)^2                self-influence, unsigned

Members are chained: member m + 1 is fine-tuned on the train rows from member m (`ensemble` in the config, stage
`ensemble`). Departures from the authors' code: the task's own loss, where theirs is a sum of sigmoid losses over
classes; running statistics of BatchNorm are kept, not estimated again for each member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows, Stores

LEAST = 0.05
"""Nats: a loss below counts as this where the members start from."""


@dataclass(frozen=True)
class GEX(PairEstimator):
    """Products of how losses change along the ensemble."""

    checkpoint: str

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """Nothing to fit."""
        return cls(np.zeros(0), at[0])

    def ask(self, queries: Rows) -> Array:
        """D / M, [q, M]."""
        changes = self.features(queries)
        return changes / changes.shape[1]

    def features(self, rows: Rows) -> Array:
        """D, [n, M]."""
        changes: Array = rows.ensemble() - np.maximum(rows.column(self.checkpoint, "loss"), LEAST)[:, None]
        return changes

    def rows(self, rows: Rows) -> Array:
        """Self-influence, [n]."""
        return np.asarray(np.square(self.features(rows)).mean(1))
