"""What an estimator is: fitted on the stores of a run, then asked for scores of rows and of pairs. numpy only.

Every pair score here is a product: what a query *asks* with, [q, D], times the *features* of a train row, [n, D]; an
unsigned one is its square. A score of rows, where an estimator has no other, is the mean of its pairs over the
validation rows, which needs one product a row. Letters: n rows, q queries, K coordinates of a code, D numbers of a
feature.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from pipeline.core.preconditioner import Preconditioner

Array = np.ndarray[Any, Any]


class Rows(Protocol):
    """Some rows of a split, as stored at one checkpoint or more."""

    @property
    def positions(self) -> Array:
        """Where they stand in the split, [n]."""

    def codes(self, checkpoint: str) -> Array:
        """Compressed gradients at a checkpoint, [n, K] float64."""

    def column(self, checkpoint: str, name: str) -> Array:
        """Another stored number of each row, [n]: loss, norm_full, norm_code."""

    def ensemble(self) -> Array:
        """Losses at the M members of the geometric ensemble, [n, M] float64."""


class Stores(Protocol):
    """What a run has: rows that count, and what was fitted on them."""

    @property
    def damping(self) -> float:
        """lambda over the mean curvature, tr(C) / rows, as configured."""

    def total(self, split: str, at: Sequence[str], part: Callable[[Rows], Any]) -> Any:
        """The sum of `part` over blocks of a split's rows."""

    def preconditioner(self, checkpoint: str) -> Preconditioner:
        """H^-1 at a checkpoint."""

    def rate(self, checkpoint: str) -> float:
        """The learning rate that a checkpoint was passed with."""

    def blocks(self, checkpoint: str) -> Sequence[slice]:
        """The coordinates of each parameter, where codes keep them apart; else one slice of all."""

    def solved(self, name: str) -> Array:
        """What a solver left of train rows, by position, [N], or of pairs, [N, Q]; NaN for rows that do not count."""

    def classes(self) -> bool:
        """Whether the losses are those of a classification, with one label a row."""

    def labels(self) -> Array:
        """Given label of each train row, by position, [N]."""

    def log_probabilities(self, checkpoint: str) -> tuple[Array, Array]:
        """Positions [n] of train rows, and log p of each label there, [n, C]."""


@dataclass(frozen=True)
class Estimator(ABC):
    """A fitted estimator."""

    squared: ClassVar[bool] = False
    """Whether pairs are squares of products."""

    @classmethod
    @abstractmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """What depends on the stores alone, from those at some checkpoints."""

    @abstractmethod
    def rows(self, rows: Rows) -> Array:
        """Score of each train row, [n]."""


@dataclass(frozen=True)
class PairEstimator(Estimator):
    """One whose pairs are products."""

    @abstractmethod
    def ask(self, queries: Rows) -> Array:
        """What queries ask with, [q, D]."""

    @abstractmethod
    def features(self, rows: Rows) -> Array:
        """What train rows answer with, [n, D]."""

    def pairs(self, queries: Rows, rows: Rows) -> Array:
        """Score of each query and train row, [q, n]."""
        return self.answered(self.ask(queries), rows)

    def answered(self, asked: Array, rows: Rows) -> Array:
        """The same for what queries ask with, [q, D], once it is known."""
        products: Array = asked @ self.features(rows).T
        return np.square(products) if self.squared else products

    def rows(self, rows: Rows) -> Array:
        """Mean of the pairs over the validation rows, [n]."""
        scores: Array = self.features(rows) @ self.mean
        return scores

    mean: Array
    """Mean of what the validation rows ask with, [D]."""

    def asked_by(self, stores: Stores, at: Sequence[str]) -> Self:
        """The same, with the mean of what the validation rows ask with."""
        total, count = stores.total("validation", at, Summed(self.ask))
        return type(self)(**{**self.__dict__, "mean": total / max(1, count)})


@dataclass(frozen=True)
class Sum:
    """A sum, and of how many rows."""

    total: Array
    count: int

    def __add__(self, other: Sum) -> Sum:
        """Of both."""
        return Sum(self.total + other.total, self.count + other.count)

    def __iter__(self) -> Any:
        """Sum and count."""
        return iter((self.total, self.count))


@dataclass(frozen=True)
class Summed:
    """The sum over rows of what a function gives of each, [n, ...]."""

    of: Callable[[Rows], Array]

    def __call__(self, rows: Rows) -> Sum:
        """Of some rows."""
        values = self.of(rows)
        return Sum(values.sum(0), len(values))


@dataclass(frozen=True)
class Outer:
    """The sum over rows of the outer products of what a function gives, [n, D], as [D, D]."""

    of: Callable[[Rows], Array]

    def __call__(self, rows: Rows) -> Sum:
        """Of some rows."""
        values = self.of(rows)
        return Sum(values.T @ values, len(values))


@dataclass(frozen=True)
class Codes:
    """Codes at a checkpoint, divided by a number of each row where a function says so."""

    checkpoint: str
    divisor: Callable[[Rows], Array] | None = None

    def __call__(self, rows: Rows) -> Array:
        """[n, K]."""
        codes = rows.codes(self.checkpoint)
        return codes if self.divisor is None else codes / self.divisor(rows)[:, None]


def unit(rows: Array) -> Array:
    """Rows [n, K] brought to length 1; a zero row stays zero."""
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def divided(values: Array, by: Array) -> Array:
    """Quotient of numbers [n]; 0 where the divisor is 0."""
    return np.divide(values, by, out=np.zeros_like(np.asarray(values, np.float64)), where=by > 0)
