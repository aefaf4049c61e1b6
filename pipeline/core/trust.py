"""How far to trust neighbours and the trained model when labels are judged: learnt from clean rows.

Neighbours and the model at `trained` saw the given labels. What a model has taken up of them, its neighbours say again;
and a model that knows its labels by heart repeats them. The first shows on clean rows that no model was fitted to, the
held-out folds of the validation rows; the second does not, as a model treats only its own train rows so. What is learnt
on clean rows holds for train rows as far as the model treats both alike:

    honesty r = min(1, e / v)

e is the share of train rows where `trained` does not say the given label, v its share of errors on clean rows, counted
as (errors + 1) / (M + 2). Given labels are wrong at least as often as clean ones, so that a model which learnt nothing
by heart has e >= v and r = 1; one that repeats every label has r = 0.

On the clean rows, a and b among 0, .1, ..., 1 make the mean loss of P n^a and of P^(1 - b) T^b least, in nats (P: the
folds, each on rows that it did not see; n: the neighbours among the train rows; T: `trained`, its logits multiplied by
the factor that makes its loss least). Train rows are then judged with the exponents

    of neighbours  1 - r (1 - a)        of trained  r b

so that by heart it is P n alone, and without it what clean rows favour.

The folds have an honesty of their own, by the same formula from P. As a rule it is near 1: the descent on clean rows
takes back what was learnt by heart. Where it stays below `REPEATING`, P repeats the labels still and counts with this
honesty as its exponent; and so do the features, so that neighbours are looked for among the inputs, where these are
vectors.
No true train label enters.
Letters: M clean rows, C classes, N train rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

GRID = np.linspace(0, 1, 11)
TINY = 1e-200
"""Below what float64 probabilities come to; a floor that keeps logarithms finite and no two scores equal."""
NEIGHBOUR_FLOOR = 1e-6
"""Least probability that neighbours leave to a class: k rows cannot say that it is impossible."""


@dataclass(frozen=True)
class Trust:
    """Exponents for train rows.

    Attributes:
        neighbours: of what they say, 0 to 1.
        trained: of what the model at `trained` says, 0 to 1; that of the folds is 1 less this.
        honesty: r.
        folds: of P, 0 to 1: 1, or the honesty of the folds where that is below `REPEATING`.
    """

    neighbours: float
    trained: float
    honesty: float
    folds: float = 1.0


REPEATING = 0.5
"""Honesty of the folds below which they repeat the labels of the train rows."""
BY_HEART = Trust(1.0, 0.0, 0.0)
"""Where nothing is known of clean rows."""


def honesty(agreeing: float, errors: int, rows: int) -> float:
    """r, 0 to 1.

    Args:
        agreeing: share of the train rows whose given label `trained` says.
        errors: of `trained` on clean rows.
        rows: M.

    >>> honesty(1.0, 30, 98), honesty(0.5, 24, 98)
    (0.0, 1.0)
    """
    return min(1.0, (1 - agreeing) / ((errors + 1) / (rows + 2)))


def learnt(
    prior: Array, trained: Array, said: Array | None, labels: Array, agreeing: float, folds: float = 1.0
) -> Trust:
    """The exponents that clean rows call for.

    Args:
        prior: P of clean rows, by models that did not see them, [M, C].
        trained: T of these rows, [M, C].
        said: n of these rows, [M, C]; None: there are no neighbours.
        labels: [M].
        agreeing: share of the train rows whose given label `trained` says.
        folds: the honesty of the folds.
    """
    r = honesty(agreeing, int((trained.argmax(1) != labels).sum()), len(labels))
    b = _best([mixed(prior, trained, share) for share in GRID], labels)
    a = 1.0 if said is None else _best([with_neighbours(prior, said, share) for share in GRID], labels)
    return Trust(1 - r * (1 - a), r * b, r, 1.0 if folds >= REPEATING else folds)


def mixed(prior: Array, trained: Array, share: float) -> Array:
    """P^(1 - share) T^share, normalised, [n, C]; P itself where the share is 0."""
    if share == 0:
        return prior
    logs = (1 - share) * np.log(prior + TINY) + share * np.log(trained + TINY)
    return normalised(np.exp(logs - logs.max(1, keepdims=True)))


def with_neighbours(prior: Array, said: Array, exponent: float) -> Array:
    """P n^exponent, normalised, [n, C]."""
    return normalised((prior + TINY) * (said + NEIGHBOUR_FLOOR) ** exponent)


def normalised(values: Array) -> Array:
    """Rows that sum to 1."""
    return np.asarray(values / values.sum(-1, keepdims=True))


def _best(candidates: list[Array], labels: Array) -> float:
    """The share whose probabilities have the least mean loss; the smallest of equals."""
    where = np.arange(len(labels))
    losses = [-np.log(each[where, labels] + TINY).mean() for each in candidates]
    return float(GRID[int(np.argmin(losses))])
