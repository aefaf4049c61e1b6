"""Exact best rows from scores that were computed fast: in float32, with bounds on their rounding. numpy only.

A float32 product p of a unit query and a row x differs from the exact one by at most `margin(K)` |x|, the bound on any
order of summation (Higham 2002, section 3.1), |fl(u^T x) - u^T x| <= gamma_K sum |u_j x_j|, with Cauchy's inequality.
So the exact score is within [low, high]. Whatever cannot be among the k best by these bounds is left out, and the few
rows that can are scored again in float64: the answer is that of a scan in float64, ties included.

Letters: n rows, K coordinates, q queries, b blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.codec import BLOCK, BLOCK_STEPS, Codec, Encoded

Array = np.ndarray[Any, Any]

PIECE_ROWS = 256
"""Rows that are float32 at a time: what they take stays in a core's cache."""


def margin(dimension: int) -> float:
    """Bound on the error of a float32 product of a unit query and a unit row, with scales folded in."""
    return float(2 * (dimension + 4 * BLOCK) * np.finfo(np.float32).eps)


def products(codec: Codec, stored: Encoded, queries: Array) -> Array:
    """u^T x of stored rows and queries [q, K], [q, n] float32; see `margin`.

    Of int8, codes are multiplied as they are: column scales are folded into the queries, block and row scales into the
    sums over blocks. Rows of other encodings are decoded, a few at a time.
    """
    total = len(stored.codes)
    out = np.empty((total, len(queries)), np.float32)
    multiply = _Folded(codec, queries) if codec.encoding == "int8" else _Decoded(codec, queries)
    for start in range(0, total, PIECE_ROWS):
        piece = Encoded(*(part[start : start + PIECE_ROWS] for part in stored))
        out[start : start + PIECE_ROWS] = multiply(piece)
    return np.ascontiguousarray(out.T)


class _Decoded:
    """Products by way of decoded rows."""

    def __init__(self, codec: Codec, queries: Array) -> None:
        self._codec, self._queries = codec, np.ascontiguousarray(queries.T, np.float32)

    def __call__(self, piece: Encoded) -> Array:
        found: Array = self._codec.decode(piece) @ self._queries
        return found


class _Folded:
    """Products of int8 codes: sum over blocks of 2^(-e/8) (codes in the block)^T (column scale x query)."""

    def __init__(self, codec: Codec, queries: Array) -> None:
        count, dimension = queries.shape
        self._blocks = -(-dimension // BLOCK)
        folded = np.zeros((count, self._blocks * BLOCK), np.float32)
        folded[:, :dimension] = queries * codec.column_scale
        self._weights = np.ascontiguousarray(folded.reshape(count, self._blocks, BLOCK).transpose(1, 2, 0))
        self._buffer = np.zeros((PIECE_ROWS, self._blocks * BLOCK), np.float32)

    def __call__(self, piece: Encoded) -> Array:
        rows, dimension = piece.codes.shape
        codes = self._buffer[:rows]
        np.copyto(codes[:, :dimension], piece.codes, casting="unsafe")
        sums = np.matmul(codes.reshape(rows, self._blocks, BLOCK).transpose(1, 0, 2), self._weights)  # [b, n, q]
        steps = BLOCK_STEPS[piece.block_scale] * piece.row_scale[:, None]  # [n, b]
        return np.einsum("bnq,nb->nq", sums, steps)


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
