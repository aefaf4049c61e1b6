"""Linear datamodelling score (LDS): do summed scores predict what models on random subsets make of a query? numpy only.

For subsets S_j and scores tau, positive where a row helped, the prediction for query q is sum over i in S_j of tau_qi;
the response is minus the loss, or the margin, of models trained on S_j. LDS of q is Spearman's correlation of the two
over the subsets; its mean over the queries is reported (Park et al., TRAK, 2023; Ilyas et al. 2022).
Letters: Q queries, m subsets, R models a subset.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.agreement import ranks

Array = np.ndarray[Any, Any]

DRAWS = 1000
LEVEL = 0.95


def correlations(predicted: Array, response: Array) -> Array:
    """Spearman's correlation of each query over the subsets, [Q]; NaN where either is constant.

    Args:
        predicted: [Q, m].
        response: [Q, m].
    """
    return _pearson(_ranked(predicted), _ranked(response))


def lds(predicted: Array, response: Array, seed: int) -> tuple[float, float, float]:
    """Mean of `correlations`, and its bootstrapped interval of 95 %.

    Queries and subsets are both drawn anew, since all queries share the subsets; ranks are those of the whole.
    """
    a, b = _ranked(predicted), _ranked(response)
    known = np.isfinite(_pearson(a, b))
    a, b = a[known], b[known]
    if not len(a):
        return (float("nan"),) * 3
    stream = np.random.default_rng(seed)
    draws = [_drawn(a, b, stream) for _ in range(DRAWS)]
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(_pearson(a, b).mean()), float(low), float(high)


def ceiling(responses: Array) -> float:
    """What randomness of training leaves: LDS of one model a subset as prediction of the mean of the others.

    Args:
        responses: [R, Q, m]. NaN with one model a subset.
    """
    if len(responses) < 2:
        return float("nan")
    one = [
        np.nanmean(correlations(responses[r], np.delete(responses, r, axis=0).mean(0))) for r in range(len(responses))
    ]
    return float(np.mean(one))


def _drawn(a: Array, b: Array, stream: np.random.Generator) -> float:
    """The mean correlation over drawn queries and subsets."""
    queries, subsets = (stream.integers(size, size=size) for size in a.shape)
    # A query that is drawn twice counts twice.
    weights = np.bincount(queries, minlength=len(a)).astype(float)
    found = _pearson(a[:, subsets], b[:, subsets])
    known = np.isfinite(found)
    return float(np.average(found[known], weights=weights[known])) if weights[known].any() else float("nan")


def _ranked(values: Array) -> Array:
    """Ranks within each line, [Q, m]."""
    return np.stack([ranks(line) for line in values]) if len(values) else np.zeros(values.shape)


def _pearson(a: Array, b: Array) -> Array:
    """Pearson's correlation line by line, [Q]."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.full(len(a), np.nan), where=scale > 1e-9)
