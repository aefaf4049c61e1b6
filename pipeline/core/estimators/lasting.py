"""Lasting: at how many recorded points of two trainings is a row among the worst?

    share of the epochs, of a training and of its twin from another seed, at which the loss is among the largest tenth

Unsigned, 0 to 1, from losses that are stored beside the gradients. It says of a suspect, whatever score it is one by,
whether other weights and another seed find it hard, too. Lowland's own; docs/stability.md says what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores

WORST = 0.1
"""Share of the rows that count as the worst at a point."""


@dataclass(frozen=True)
class Gathered:
    """Values of rows; the sum of two holds those of both."""

    values: Array

    def __add__(self, other: Gathered) -> Gathered:
        """Of both."""
        return Gathered(np.concatenate([self.values, other.values]))


@dataclass(frozen=True)
class Losses:
    """Losses at a checkpoint, gathered over rows."""

    checkpoint: str

    def __call__(self, rows: Rows) -> Gathered:
        """[n]."""
        return Gathered(rows.column(self.checkpoint, "loss"))


@dataclass(frozen=True)
class Lasting(Estimator):
    """Shares of points."""

    checkpoints: tuple[str, ...]
    cuts: tuple[float, ...]
    """The least loss of the worst, checkpoint by checkpoint, nats."""

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """Where the worst tenth begins."""
        losses = [stores.total("train", [each], Losses(each)).values for each in at]
        return cls(tuple(at), tuple(float(np.sort(each)[-max(1, round(WORST * len(each)))]) for each in losses))

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        pairs = zip(self.checkpoints, self.cuts, strict=True)
        return np.asarray(np.mean([rows.column(name, "loss") >= cut for name, cut in pairs], 0))
