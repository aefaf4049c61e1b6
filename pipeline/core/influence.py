"""The estimators, in terms of codes g and preconditioned vectors u = H^-1 g_query. numpy only, float64.

Signed scores are positive when the training sample helped: training on it lowered the query's loss. Unsigned scores are
larger when the sample matters more.

* influence: u^T g_train. First order, signed (Koh and Liang 2017, with their sign reversed).
* fvm: (u^T g_train)^2, at the flat validation minimum (Ye et al. 2025): the single-point form of S when the query's
  Hessian is taken as its gradient's outer product; its mean over the validation rows is W.
* cosine: g_query^T g_train / (|g_query| |g_train|), signed (Lin et al. 2024, DMin).

Letters: n train rows, q queries, C classes, K coordinates.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SIGNED = {"influence": True, "fvm": False, "cosine": True}


def unit(rows: Array) -> Array:
    """Rows [n, K] brought to length 1; a zero row stays zero."""
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def pairwise(score: str, queries: Array, rows: Array) -> Array:
    """Scores [q, n] of all pairs.

    Args:
        score: "influence", "fvm" or "cosine".
        queries: u = H^-1 g_query, or for cosine g_query itself, [q, K].
        rows: codes of the train rows, [n, K].
    """
    if score == "cosine":
        return unit(queries) @ unit(rows).T
    products: Array = np.asarray(queries, np.float64) @ np.asarray(rows, np.float64).T
    return np.square(products) if score == "fvm" else products


def exact_scores(score: str, query: Array, rows: Array) -> Array:
    """Scores [n] of one query [K] with rows [n, K], to the bit the same wherever a row stands: equal rows tie.

    >>> exact_scores("fvm", np.array([1.0, 2.0]), np.array([[1.0, 1.0], [3.0, -1.0]])).tolist()
    [9.0, 1.0]
    """
    query, rows = np.asarray(query, np.float64), np.asarray(rows, np.float64)
    if score == "cosine":
        query, rows = unit(query[None])[0], unit(rows)
    products: Array = (rows * query).sum(1)  # BLAS would round by the row's place
    return np.square(products) if score == "fvm" else products


def relabel(scores: Array, given: Array) -> tuple[Array, Array]:
    """The label whose gradient disturbs the validation loss least, argmin over c of S(x, c) (Ye et al. 2025).

    Args:
        scores: S of each row under each label, [n, C].
        given: given labels, [n].

    Returns:
        suggested labels [n], and margins [n] = S(given) - S(suggested), zero where the given label is the best.
    """
    suggested = scores.argmin(1)
    rows = np.arange(len(scores))
    return suggested, scores[rows, given] - scores[rows, suggested]


def likeliest(probabilities: Array) -> Array:
    """The most probable label of each row, [n].

    Args:
        probabilities: of each label, or their logarithms, [n, C]; of rows that are not numbers -1 is said.
    """
    known = np.asarray(~np.isnan(probabilities).any(1))
    return np.where(known, np.where(known[:, None], probabilities, 0.0).argmax(1), -1)


def likeliest_other(probabilities: Array, given: Array) -> Array:
    """The label that each row has if the given one is wrong: the most probable of the others, [n].

    Args:
        probabilities: as for `likeliest`.
        given: given labels, [n].
    """
    others = np.array(probabilities, np.float64)
    others[np.arange(len(given)), given] -= np.inf  # NaN stays NaN
    return likeliest(others)


def order(scores: Array, ids: Array, bottom: bool = False) -> Array:
    """Positions in order of score, best first (worst first for `bottom`), equal scores in order of id; NaN last.

    >>> order(np.array([1.0, 3.0, 1.0]), np.array([7, 8, 2])).tolist()
    [1, 2, 0]
    """
    key = scores if bottom else -scores
    return np.lexsort((ids, key))
