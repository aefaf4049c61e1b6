"""The k rows that score highest (or lowest) for a query: by an index and an exact rerank, or by a scan of all codes.

For a signed score the top is where +u points and the bottom where -u points. The unsigned (u^T g)^2 is large in both
directions, so both are searched and united; its bottom is no nearest-neighbour question and is scanned for. Candidates
are fetched in excess and scored again in float64 from the decoded codes: an index decides only who is considered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.influence import SIGNED, order, pairwise, unit
from pipeline.steps.stores import CodeSet, blocks
from pipeline.storage import indexes

Array = np.ndarray[Any, Any]


QUERIES = 64
"""Queries whose candidates are read and scored together."""


@dataclass(frozen=True)
class Ranked:
    """Row positions [q, k] and their scores [q, k], best first (worst first for the bottom)."""

    ids: Array
    scores: Array


def index_search(
    index: Any, codes: CodeSet, score: str, queries: Array, k: int, bottom: bool, oversample: int
) -> Ranked:
    """By index and rerank; queries are u = H^-1 g, or g itself for cosine, [q, K]."""
    if bottom and not SIGNED[score]:
        return exact_search(codes, score, queries, k, bottom)
    directions = [-1.0] if bottom else ([1.0] if SIGNED[score] else [1.0, -1.0])
    if len(queries) > QUERIES:
        parts = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
        return _joined([index_search(index, codes, score, part, k, bottom, oversample) for part in parts])
    # Only the direction of a query matters to the search; at unit length it cannot overflow float32.
    probes = unit(queries)
    counted = codes.counted()
    parts = [_found(index, (sign * probes).astype(np.float32), k * oversample, counted) for sign in directions]
    width = max(part.shape[1] for part in parts)
    ids = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in parts], axis=1)
    return _rerank(codes, score, queries, ids, k, bottom)


def _found(index: Any, probes: Array, wanted: int, counted: Array) -> Array:
    """Ids [q, f] of at least `wanted` rows that count, as far as the index has them, and -1 for others.

    Retired rows stay in the index until it is compacted: where they take places of a search, more is fetched.
    """
    fetched = min(wanted, len(counted))
    while True:
        ids = indexes.search(index, probes, fetched)[0]
        kept = (ids >= 0) & counted[ids]
        short = (kept.sum(1) < wanted) & (ids >= 0).all(1)
        if fetched >= len(counted) or not short.any():
            return np.where(kept, ids, -1)
        fetched = min(2 * fetched, len(counted))


def _rerank(codes: CodeSet, score: str, queries: Array, found: Array, k: int, bottom: bool) -> Ranked:
    """The k best among the rows found for each query, [q, f], by their exact scores; each row is read once for all."""
    every = np.unique(found[found >= 0])
    rows = codes.gather(every).astype(np.float64)
    best = []
    for query, own in zip(queries, found, strict=True):
        ids = np.unique(own[own >= 0])
        scores = pairwise(score, query[None], rows[np.searchsorted(every, ids)])[0]
        chosen = order(scores, ids, bottom)[:k]
        best.append(Ranked(ids[chosen], scores[chosen]))
    return _stack(best)


def exact_search(codes: CodeSet, score: str, queries: Array, k: int, bottom: bool) -> Ranked:
    """By a scan of all codes, a shard at a time; only the best k of each query are kept between shards."""
    best = [Ranked(np.zeros(0, np.int64), np.zeros(0)) for _ in queries]
    for ids, rows in blocks(codes):
        scores = pairwise(score, queries, rows)
        best = [_merge(kept, ids, line, k, bottom) for kept, line in zip(best, scores, strict=True)]
    return _stack(best)


def _merge(kept: Ranked, ids: Array, scores: Array, k: int, bottom: bool) -> Ranked:
    all_ids, all_scores = np.concatenate([kept.ids, ids]), np.concatenate([kept.scores, scores])
    best = order(all_scores, all_ids, bottom)[:k]
    return Ranked(all_ids[best], all_scores[best])


def _joined(parts: list[Ranked]) -> Ranked:
    return _stack([Ranked(ids, scores) for part in parts for ids, scores in zip(part.ids, part.scores, strict=True)])


def _stack(ranked: list[Ranked]) -> Ranked:
    """One table; a query for which fewer were found ends in id -1 and score NaN."""
    width = max((len(each.ids) for each in ranked), default=0)
    ids = np.full((len(ranked), width), -1, np.int64)
    scores = np.full((len(ranked), width), np.nan)
    for i, each in enumerate(ranked):
        ids[i, : len(each.ids)], scores[i, : len(each.ids)] = each.ids, each.scores
    return Ranked(ids, scores)
