"""How well scores agree with a truth or with each other. numpy only.

Ties count half, as in the Mann-Whitney statistic; ranks of ties are averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def ranks(values: Array) -> Array:
    """Ranks from 1, [n]; equal values share their mean rank.

    >>> ranks(np.array([10.0, 30.0, 10.0])).tolist()
    [1.5, 3.0, 1.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: Array = (last - (counts - 1) / 2)[inverse]
    return mean


def auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve: the chance that a positive row scores above a negative one; NaN without both.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positive = np.asarray(positive, bool)
    count, rest = int(positive.sum()), int((~positive).sum())
    if not count or not rest:
        return float("nan")
    return float((ranks(scores)[positive].sum() - count * (count + 1) / 2) / (count * rest))


def average_precision(scores: Array, positive: Array) -> float:
    """Mean precision at the positives, tied rows taken together as one threshold; NaN without positives."""
    positive = np.asarray(positive, bool)
    if not positive.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(scores[order][1:] != scores[order][:-1])[0], len(scores) - 1)
    hits = np.cumsum(positive[order])[ends]
    return float(np.sum(hits / (ends + 1) * np.diff(hits, prepend=0)) / positive.sum())


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; NaN where either is constant."""
    a, b = (each - each.mean() for each in (ranks(first), ranks(second)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else float("nan")


def recall_at_k(found: Array, exact: Array) -> float:
    """Mean share of the exact neighbours [q, k] that are among those found [q, k]."""
    shares = [len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact, strict=True)]
    return float(np.mean(shares)) if shares else float("nan")
