"""Memorisation and influence by subset retraining (Feldman and Zhang 2020). numpy only.

    mem(i)     = P[h(x_i) = y_i | i in the subset] - P[h(x_i) = y_i | i not in it]
    infl(i, j) = the same difference at the test point j

over models h on random subsets; probabilities are means over the t models. infl(i, i) = mem(i) exactly. In matrices,
with M the mask [t, N] and C the correctness [t, n]: infl = C'M / sum(M) - C'(1 - M) / sum(1 - M), [n, N].
Letters: t models, N train rows, n judged rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Estimate:
    """A difference of two means, and its standard error; NaN where one of them is over no model.

    Of means p over n models the variance is taken as q (1 - q) / n with q = (n p + 1) / (n + 2), so that a row on which
    all models agree has an error, too.
    """

    value: Array
    error: Array


def memorisation(kept: Array, outcome: Array) -> Estimate:
    """Of every train row, [N].

    Args:
        kept: which rows a model was trained on, [t, N] bool.
        outcome: correctness of each model on the train rows, 0 or 1, [t, N].
    """
    kept = np.asarray(kept, bool)
    held, left = (np.where(mask, outcome, 0).sum(0, dtype=np.float64) for mask in (kept, ~kept))
    return _difference(held, kept.sum(0), left, (~kept).sum(0))


def influence(kept: Array, outcome: Array) -> Estimate:
    """Of every train row on every judged row, [n, N].

    Args:
        kept: [t, N] bool.
        outcome: correctness of each model on the judged rows, 0 or 1, [t, n].
    """
    mask, outcome = np.asarray(kept, np.float64), np.asarray(outcome, np.float64)
    held = outcome.T @ mask  # sums of zeros and ones: exact in float64
    left = outcome.sum(0)[:, None] - held
    return _difference(held, mask.sum(0), left, len(mask) - mask.sum(0))


def _difference(held: Array, inside: Array, left: Array, outside: Array) -> Estimate:
    """From the sums of correct models with and without a row, and how many models there are of each."""
    known = (inside > 0) & (outside > 0)
    n, m = np.maximum(inside, 1), np.maximum(outside, 1)
    value = np.where(known, held / n - left / m, np.nan)
    error = np.sqrt(_variance(held, n) + _variance(left, m))
    return Estimate(value, np.where(known, error, np.nan))


def _variance(correct: Array, count: Array) -> Array:
    """Of a mean over `count` models of which `correct` are right."""
    q = (correct + 1) / (count + 2)
    return np.asarray(q * (1 - q) / count)
