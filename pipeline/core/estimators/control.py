"""The simple controls that every table carries: numbers that are stored beside the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores


@dataclass(frozen=True)
class Loss(Estimator):
    """The loss of a row, nats."""

    checkpoint: str
    name: ClassVar[str] = "loss"

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """Nothing to fit."""
        return cls(at[0])

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        return rows.column(self.checkpoint, self.name)


@dataclass(frozen=True)
class Norm(Loss):
    """The norm of a row's whole gradient."""

    name = "norm_full"
