"""The k rows that score highest (or lowest) for a query: by an index or a scan of all codes, and an exact rerank.

For a signed score the top is where +u points and the bottom where -u points. The unsigned (u^T g)^2 is large in both
directions, so both are searched and united; its bottom is no nearest-neighbour question and is scanned for. Candidates
are fetched in excess and scored again in float64 from the decoded codes: an index decides only who is considered.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pipeline.core.influence import SIGNED, exact_scores, order, unit
from pipeline.core.scan import Contenders, contenders, margin, products
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet
from pipeline.steps.space import Space
from pipeline.storage.indexes import Index
from pipeline.storage.reduction import Workers, tree

Array = np.ndarray[Any, Any]


QUERIES = 32
"""Queries that are scanned for together, and whose candidates are read together."""


@dataclass(frozen=True)
class Ranked:
    """Row positions [q, k] and their scores [q, k], best first (worst first for the bottom)."""

    ids: Array
    scores: Array


LEAST_FETCHED = 128
"""Candidates that an approximate index is asked for at least: of a million rows, .98 of the ten best are among them."""


@dataclass(frozen=True)
class Indexed:
    """An index and how to ask it.

    Attributes:
        index: of the rows.
        space: that its rows are in.
        oversample: candidates per row that is wanted.
        fetched: candidates that are fetched at least.
    """

    index: Index
    space: Space
    oversample: int
    fetched: int = LEAST_FETCHED


def index_search(
    index: Indexed, codes: CodeSet, score: str, queries: Array, k: int, bottom: bool, workers: Workers
) -> Ranked:
    """By index and rerank; queries are u = H^-1 g, or g itself for cosine, [q, K]."""
    if bottom and not SIGNED[score]:
        return exact_search(codes, score, queries, k, bottom, workers)
    directions = [-1.0] if bottom else ([1.0] if SIGNED[score] else [1.0, -1.0])
    if len(queries) > QUERIES:
        parts = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
        return _joined([index_search(index, codes, score, part, k, bottom, workers) for part in parts])
    probes, counted, wanted = index.space.probes(queries), codes.counted(), max(k * index.oversample, index.fetched)
    parts = [_found(index.index, (sign * probes).astype(np.float32), wanted, counted) for sign in directions]
    width = max(part.shape[1] for part in parts)
    ids = np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in parts], axis=1)
    return _rerank(codes, score, queries, ids, k, bottom)


def _found(index: Index, probes: Array, wanted: int, counted: Array) -> Array:
    """Ids [q, f] of at least `wanted` rows that count, as far as the index has them, and -1 for others.

    Retired rows stay in the index until it is compacted: where they take places of a search, more is fetched.
    """
    fetched = min(wanted, len(counted))
    while True:
        ids = index.search(probes, fetched, sure=fetched // 2)[0]
        kept = (ids >= 0) & counted[ids]
        short = (kept.sum(1) < wanted) & (ids >= 0).all(1)
        if fetched >= len(counted) or not short.any():
            return np.where(kept, ids, -1)
        fetched = min(2 * fetched, len(counted))


def _rerank(codes: CodeSet, score: str, queries: Array, found: Array, k: int, bottom: bool) -> Ranked:
    """The k best among the rows found for each query, [q, f], by their exact scores; each row is read once for all."""
    every = np.unique(found[found >= 0])
    rows = codes.gather(every) if len(every) else np.zeros((0, codes.dimension), np.float32)
    best = []
    for query, own in zip(queries, found, strict=True):
        ids = np.unique(own[own >= 0])
        scores = exact_scores(score, query, rows[np.searchsorted(every, ids)])
        chosen = order(scores, ids, bottom)[:k]
        best.append(Ranked(ids[chosen], scores[chosen]))
    return _stack(best)


def exact_search(codes: CodeSet, score: str, queries: Array, k: int, bottom: bool, workers: Workers) -> Ranked:
    """By a scan of all codes in float32, out of core, and an exact rerank of the rows that may be among the best.

    The answer is that of scores in float64, whatever the workers and blocks; see `pipeline.core.scan`.
    """
    if len(queries) > QUERIES:
        groups = [queries[start : start + QUERIES] for start in range(0, len(queries), QUERIES)]
        return _joined([exact_search(codes, score, group, k, bottom, workers) for group in groups])
    scan = Scan(score, unit(queries).astype(np.float32), k, bottom)
    blocks = [parts for shard in codes.shards if (parts := shard.parts())]
    best = tree(scan_part, partial(best_of, k=k), blocks, workers, (scan,), BLOCK_HELD_BYTES)
    width = max(len(each.ids) for each in best)
    found = np.stack([np.pad(each.ids, (0, width - len(each.ids)), constant_values=-1) for each in best])
    return _rerank(codes, score, queries, found, k, bottom)


@dataclass(frozen=True)
class Scan:
    """What is scanned for; queries are of unit length, [q, K] float32."""

    score: str
    queries: Array
    k: int
    bottom: bool


def scan_part(block: CodeBlock, scan: Scan) -> list[Contenders]:
    """For each query, the rows of a block that may be among the k best."""
    counted = block.shard.counted[block.rows]
    ids = block.shard.positions[block.rows][counted]
    norms = block.shard.read("norm_code", block.rows)[counted]
    # Below the normal range a product is off by what float32 cannot hold, however short the row.
    errors = np.where(norms > 0, margin(scan.queries.shape[1]) * norms + np.finfo(np.float32).tiny, 0)
    errors = errors * (np.abs(scan.queries).max(1, initial=0) > 0)[:, None]
    found = products(block.shard.codec, block.shard.stored(block.rows), scan.queries)[:, counted].astype(np.float64)
    if scan.score == "cosine":
        found, errors = (np.divide(part, norms, out=np.zeros_like(part), where=norms > 0) for part in (found, errors))
    if not SIGNED[scan.score]:
        found = np.abs(found)  # their squares are in the same order
    sign = -1 if scan.bottom else 1
    return [contenders(sign * line, error, ids, scan.k) for line, error in zip(found, errors, strict=True)]


def best_of(first: list[Contenders], second: list[Contenders], k: int) -> list[Contenders]:
    """Of both, query by query."""
    return [a.joined(b).best(k) for a, b in zip(first, second, strict=True)]


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
