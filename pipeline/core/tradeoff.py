"""Two samples as a test sees them: the Gaussian mu between them, plugged in, over thresholds, and under permutations.

Of a quantity that is larger where a row has helped, `present` [..., n] is observed with the row and `absent` [..., m]
without it. A test that calls "absent" at or below a threshold tau errs with

    alpha = share of present <= tau,    beta = share of absent > tau,    mu(tau) = Phi^-1(1 - alpha) - Phi^-1(beta)

(Dong, Roth, Su 2022; Panda et al., arXiv 2510.10510). Between N(mu, 1) and N(0, 1) it is mu at each tau: positive where
the row helped. Two estimates:

    plug-in          (mean present - mean absent) / sd,    sd^2 the mean of both variances
    over thresholds  the mu(tau) of largest magnitude, alpha kept within [1/2n, 1 - 1/2n] and beta
                     within [1/2m, 1 - 1/2m]

The second takes the largest of many noisy numbers, and so is biased away from zero: between two samples of one
distribution it is not zero on average. No test should rest on it. numpy only.
"""

from __future__ import annotations

from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def plug_in(present: Array, absent: Array) -> Array:
    """(mean present - mean absent) / sd over the last axis; 0 where neither sample varies."""
    spread = np.sqrt((present.var(-1) + absent.var(-1)) / 2)
    change = present.mean(-1) - absent.mean(-1)
    return np.divide(change, spread, out=np.zeros_like(change, np.float64), where=spread > 0)


def over_thresholds(present: Array, absent: Array) -> Array:
    """The mu(tau) of largest magnitude over all thresholds, [r], of samples [r, n] and [r, m].

    >>> over_thresholds(np.array([[1.0, 2.0, 3.0, 4.0]]), np.array([[1.0, 2.0, 3.0, 4.0]])).tolist()
    [0.0]
    """
    n, m = present.shape[1], absent.shape[1]
    values = np.concatenate([present, absent], 1)
    order = np.argsort(values, 1, kind="stable")
    ordered = np.take_along_axis(values, order, 1)
    of_present = np.cumsum(order < n, 1)
    of_absent = np.arange(1, n + m + 1) - of_present
    found = quantiles(n)[n - of_present] - quantiles(m)[m - of_absent]
    found[:, :-1][ordered[:, 1:] == ordered[:, :-1]] = 0  # equal values are on one side of any threshold
    largest = np.abs(found).argmax(1)
    return np.asarray(found[np.arange(len(found)), largest])


def band(
    present: Array, absent: Array, draws: int, rng: np.random.Generator, level: float = 0.95
) -> tuple[float, float]:
    """The middle `level` of the plug-in mu where present and absent change places at random.

    Args:
        present: [n].
        absent: [m].
        draws: permutations.
        rng: of the permutations.
        level: share of them within the band.
    """
    pooled = np.concatenate([present, absent])
    drawn = rng.permuted(np.tile(pooled, (draws, 1)), axis=1)
    found = plug_in(drawn[:, : len(present)], drawn[:, len(present) :])
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@cache
def quantiles(count: int) -> Array:
    """Phi^-1 of k / n for k = 0 to n, the ends taken as 1/2n and 1 - 1/2n, [n + 1]."""
    shares = np.clip(np.arange(count + 1) / count, 0.5 / count, 1 - 0.5 / count)
    return np.array([NormalDist().inv_cdf(float(share)) for share in shares])
