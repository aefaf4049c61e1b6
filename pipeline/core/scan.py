"""Exact best rows from scores that were computed fast: in float32, with bounds on their rounding. numpy only.

A float32 product p of a unit query and a row x differs from the exact one by at most `margin(K)` |x|: the bound on sums
(Higham 2002, section 3.1), |fl(u^T x) - u^T x| <= gamma_n sum |u_j x_j| where every term is rounded n times, with
Cauchy's inequality. Preconditioned queries are nearly orthogonal to rows, so n must be small: sums go over blocks.
So the exact score is within [low, high]. Whatever cannot be among the k best by these bounds is left out, and the few
rows that can are scored again in float64: the answer is that of a scan in float64, ties included.

Letters: n rows, K coordinates, q queries, b blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.codec import Codec, Encoded
from pipeline.core.rounding import BLOCK, BLOCK_STEPS

Array = np.ndarray[Any, Any]

PIECE_ROWS = 256
"""Rows that are float32 at a time: what they take stays in a core's cache."""


def margin(dimension: int) -> float:
    """Bound on the error of a float32 product of a unit query and a unit row.

    A term is rounded with the query, by its scales and in the sums over its block and over the blocks: n times, and
    gamma_n = n u / (1 - n u) with u = 2^-24.
    """
    roundings = BLOCK + -(-dimension // BLOCK) + 8
    return float(1.01 * roundings * np.finfo(np.float32).eps / 2)


def products(codec: Codec, stored: Encoded, queries: Array) -> Array:
    """u^T x of stored rows and queries [q, K], [q, n] float32; see `margin`.

    Sums go over blocks of 32 coordinates and then over the blocks, which rounds little. Int8 and mixed codes are
    multiplied as they are: column scales are folded into the queries, block and row scales into the sum over blocks.
    Rows of other encodings are decoded, a few at a time.
    """
    total = len(stored.codes)
    out = np.empty((total, len(queries)), np.float32)
    weights = _blocks_of(codec.folded(queries) if codec.folds else queries)
    buffer = np.zeros((PIECE_ROWS, len(weights), BLOCK), np.float32)
    for start in range(0, total, PIECE_ROWS):
        piece = Encoded(*(part[start : start + PIECE_ROWS] for part in stored))
        rows = buffer[: len(piece.codes)]
        if codec.folds:
            codec.units(piece.codes, rows)
        else:
            rows.reshape(len(rows), -1)[:, : codec.dimension] = codec.decode(piece)
        sums = np.matmul(rows.transpose(1, 0, 2), weights)  # [b, n, q]
        if codec.folds:
            steps = BLOCK_STEPS[piece.block_scale] * piece.row_scale[:, None]  # [n, b]
            out[start : start + len(rows)] = np.einsum("bnq,nb->nq", sums, steps)
        else:
            out[start : start + len(rows)] = sums.sum(0)
    return np.ascontiguousarray(out.T)


def _blocks_of(queries: Array) -> Array:
    """Queries [q, K] in blocks, [b, 32, q] float32, filled up with zeros."""
    count, dimension = queries.shape
    filled = np.zeros((count, -(-dimension // BLOCK), BLOCK), np.float32)
    filled.reshape(count, -1)[:, :dimension] = queries
    return np.ascontiguousarray(filled.transpose(1, 2, 0))


@dataclass(frozen=True)
class Contenders:
    """Rows that may be among the k best of a query, and bounds on their scores (larger is better), each [c]."""

    ids: Array
    low: Array
    high: Array

    def joined(self, other: Contenders) -> Contenders:
        """Those of two sets of rows."""
        pairs = zip((self.ids, self.low, self.high), (other.ids, other.low, other.high), strict=True)
        return Contenders(*(np.concatenate(pair) for pair in pairs))

    def best(self, k: int) -> Contenders:
        """Without those that k others surely beat; among equal scores, smaller ids win.

        >>> rows = Contenders(np.array([5, 6, 7]), np.array([3.0, 1.0, 2.5]), np.array([3.2, 1.5, 3.1]))
        >>> rows.best(1).ids.tolist()
        [5, 7]
        """
        if len(self.ids) <= k:
            return self
        least = np.partition(self.low, -k)[-k]
        sure, tied = self.ids[self.low > least], np.sort(self.ids[self.low == least])
        last = max(sure.max(initial=-1), tied[k - len(sure) - 1])  # largest id of k rows whose scores are >= least
        kept = (self.high > least) | ((self.high == least) & (self.ids <= last))
        return Contenders(self.ids[kept], self.low[kept], self.high[kept])


def contenders(scores: Array, errors: Array, ids: Array, k: int) -> Contenders:
    """Those of rows with scores [n], off by no more than `errors` [n]; what overflowed may be anything."""
    if len(ids) > k:
        known = np.where(np.isfinite(scores), scores, np.inf)
        near = known >= np.partition(known, -k)[-k] - 2 * errors.max() if np.isfinite(known).all() else slice(None)
        scores, errors, ids = scores[near], errors[near], ids[near]
    scores = scores.astype(np.float64)
    known = np.isfinite(scores)
    low, high = np.where(known, scores - errors, -np.inf), np.where(known, scores + errors, np.inf)
    return Contenders(ids, low, high).best(k)
