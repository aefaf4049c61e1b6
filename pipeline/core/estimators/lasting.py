"""Lasting: does a row stand among the worst after another training, too?

    share of the train rows whose loss at `twin-flat` is less than the row's

`twin-flat` is a flat validation minimum to which the twin, the training from another seed, was taken as `trained` was
to `flat`. Unsigned, 0 to 1, from losses that are stored beside the gradients. Suspects are ranked at `flat`: one that
stands high here is a suspect under other random numbers, too. Lowland's own; docs/stability.md says what it is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores


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
    """Standing among the losses of all train rows."""

    checkpoint: str
    losses: Array = field(repr=False)
    """Of all rows that count, ascending."""

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The losses of all rows."""
        return cls(at[0], np.sort(stores.total("train", at, Losses(at[0])).values))

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        below = np.searchsorted(self.losses, rows.column(self.checkpoint, "loss"), side="left")
        return np.asarray(below / len(self.losses))
