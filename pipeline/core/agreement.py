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
    ends, hits = _thresholds(scores, positive)
    return float(np.sum(hits / (ends + 1) * np.diff(hits, prepend=0)) / positive.sum())


def recall_after(scores: Array, positive: Array, counts: Array) -> Array:
    """Share of the positive rows among the `counts` rows of largest score, [c]; of ties as many as chance would have.

    >>> recall_after(np.array([3.0, 1.0, 1.0]), np.array([True, True, False]), np.array([0, 1, 2, 3])).tolist()
    [0.0, 0.5, 0.75, 1.0]
    """
    ends, hits = _thresholds(scores, np.asarray(positive, bool))
    found: Array = np.interp(counts, np.append(0, ends + 1), np.append(0, hits)) / hits[-1]
    return found


def _thresholds(scores: Array, positive: Array) -> tuple[Array, Array]:
    """Where runs of equal scores end in falling order, and how many positives there are up to each end."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.nonzero(scores[order][1:] != scores[order][:-1])[0], len(scores) - 1)
    return ends, np.cumsum(positive[order])[ends]


def spearman(first: Array, second: Array) -> float:
    """Spearman's rank correlation; NaN where either is constant."""
    a, b = (each - each.mean() for each in (ranks(first), ranks(second)))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale else float("nan")


def overlaps(found: Array, wanted: Array) -> Array:
    """Share of each line of wanted ids [q, k] that is among the line found, [q].

    >>> overlaps(np.array([[1, 2], [3, 4]]), np.array([[2, 5], [4, 3]])).tolist()
    [0.5, 1.0]
    """
    return np.array([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, wanted, strict=True)])


def kendall(first: Array, second: Array) -> float:
    """Kendall's rank correlation tau-b; NaN where either is constant.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0]))
    0.3333333333333333
    """
    a, b = (np.sign(each[:, None] - each[None]) for each in (first, second))
    scale = np.sqrt(np.square(a).sum() * np.square(b).sum())
    return float((a * b).sum() / scale) if scale else float("nan")


def least_in_common(first: Array, second: Array, count: int) -> float:
    """Jaccard index of the positions of the `count` least values of each."""
    a, b = (np.argsort(each, kind="stable")[:count] for each in (first, second))
    return len(np.intersect1d(a, b)) / len(np.union1d(a, b))


def recall_at_k(found: Array, exact: Array) -> float:
    """Mean share of the exact neighbours [q, k] that are among those found [q, k]."""
    shares = overlaps(found, exact)
    return float(shares.mean()) if len(shares) else float("nan")


def jaccard(overlap: Array) -> Array:
    """|A and B| / |A or B| of two sets of one size, from the share that they have in common.

    >>> jaccard(np.array([0.0, 0.5, 1.0])).round(3).tolist()
    [0.0, 0.333, 1.0]
    """
    found: Array = overlap / (2 - overlap)
    return found
