"""Sums over the root rows of a split, kept so that a later run adds what is new to them.

The shards are cut into segments of so many rows that a sum is a small part of the codes that it stands for. Beside the
sum of each segment stand the hashes of the codes that are in it. Where all of them are still there, only the other rows
are added; where one is gone, for its row was changed or dropped, the segment is summed anew from the stores. Retired
rows are in the segments' sums, and are taken out of their total.

Sums are float64. A total from kept sums differs from one made afresh by the order of additions, some 1e-15 of its
trace; taking rows out multiplies that by the trace before over the trace after. Beyond `MOST_TAKEN` the rows that stay
are summed instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.curvature import outer_sum, square_sum
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet, CodeShard
from pipeline.storage.arrays import Arrays
from pipeline.storage.reduction import Workers, tree_sum

Array = np.ndarray[Any, Any]

SEGMENT_ROWS = 128
"""Rows of a segment, times K: its sum of 8 K^2 bytes is then 6 % of the K bytes of each of its rows."""
MOST_TAKEN = 0.999
"""Share of the trace that retired rows may have."""


@dataclass(frozen=True)
class Part:
    """Some rows of a block, [n] bool: what a worker sums."""

    block: CodeBlock
    taken: Array

    def roots(self) -> Iterator[Array]:
        """Root rows in pieces [R, K], float64: gradients, or sqrt(weight) times those under each label."""
        shard, start = self.block.shard, self.block.rows.start
        for rows, decoded in self.block.pieces():
            taken = self.taken[rows.start - start : rows.stop - start]
            codes = decoded[taken].astype(np.float64)
            if codes.ndim == 3:
                weights = np.sqrt(shard.read("weight", rows)[taken].astype(np.float64))
                codes = (codes * weights[:, :, None]).reshape(-1, codes.shape[-1])
            yield codes


Leaf = Callable[[Part], Array]


def outer_part(part: Part) -> Array:
    """What a part adds to the sum of r r^T, [K, K]."""
    return _added(outer_sum, part.roots())


def square_part(part: Part) -> Array:
    """What a part adds to the sum of squared coordinates, [K]."""
    return _added(square_sum, part.roots())


def _added(reduce: Callable[[Array], Array], pieces: Iterator[Array]) -> Array:
    total = reduce(next(pieces))
    for piece in pieces:
        total += reduce(piece)
    return total


@dataclass(frozen=True)
class Sums:
    """The sums of all segments, [S, ...] float64, and the hashes of the codes in each."""

    totals: Array
    hashes: list[Array]

    def arrays(self) -> dict[str, Array]:
        """As stored: `sums`, `sum_hashes` of all segments one after the other, and where each ends."""
        ends = np.cumsum([len(each) for each in self.hashes], dtype=np.int64)
        return {"sums": self.totals, "sum_hashes": np.concatenate(self.hashes), "sum_ends": ends}

    @staticmethod
    def read(arrays: Arrays) -> Sums | None:
        """What `arrays` was stored as; None where there are no sums."""
        if "sums" not in arrays:
            return None
        ends = arrays.read("sum_ends")
        return Sums(arrays.read("sums"), np.split(arrays.read("sum_hashes"), ends[:-1]))


def parts_of(shards: Sequence[CodeShard], masks: Sequence[Array]) -> list[list[Part]]:
    """The rows of each shard that its mask takes, in blocks; shards and blocks without any are left out."""
    nested = []
    for shard, mask in zip(shards, masks, strict=True):
        blocks = [Part(block, mask[block.rows]) for block in shard.parts() if mask[block.rows].any()]
        nested += [blocks] if blocks else []
    return nested


def summed(workers: Workers, leaf: Leaf, roots: CodeSet, kept: Sums | None, size_bytes: int) -> tuple[Array, Sums, int]:
    """The sum over all rows that count, the sums of the segments to keep, and how many rows were summed for it.

    Args:
        workers: where.
        leaf: what a part adds.
        roots: the shards.
        kept: sums of an earlier run over codes of the same meaning.
        size_bytes: of a sum.
    """
    count, totals, hashes = 0, [], []
    for i, shards in enumerate(_segments(roots)):
        finite = [shard.finite for shard in shards]
        own = [shard.read("code_hash") for shard in shards]
        hashes.append(np.concatenate([codes[mask] for codes, mask in zip(own, finite, strict=True)]))
        fresh = _fresh(hashes[-1], kept.hashes[i]) if kept and i < len(kept.hashes) else None
        masks = finite if fresh is None else _spread(fresh, finite)
        parts, count = parts_of(shards, masks), count + sum(int(mask.sum()) for mask in masks)
        base = kept.totals[i] if kept and fresh is not None else None
        totals.append(_sum(workers, leaf, parts, size_bytes, roots.dimension, base))
    sums = Sums(np.stack(totals), hashes)
    return _without_retired(workers, leaf, roots, sums.totals.sum(0), size_bytes), sums, count


def _segments(roots: CodeSet) -> list[list[CodeShard]]:
    """Consecutive shards of so many rows together; where rows are appended, only the last segment grows."""
    segments: list[list[CodeShard]] = [[]]
    rows = 0
    for shard in roots.shards:
        if rows >= SEGMENT_ROWS * roots.dimension:
            segments.append([])
            rows = 0
        segments[-1].append(shard)
        rows += len(shard.positions) + len(shard.dropped)
    return segments


def _fresh(now: Array, before: Array) -> Array | None:
    """Which of the codes [n] are not among those summed before; None where one of these is gone."""
    order = np.argsort(now, kind="stable")
    ordered = now[order]
    first = np.searchsorted(ordered, ordered)
    occurrence = np.arange(len(now)) - first
    known, counts = np.unique(before, return_counts=True)
    at = np.searchsorted(known, ordered).clip(max=max(0, len(known) - 1))
    had = np.where(known[at] == ordered, counts[at], 0) if len(known) else np.zeros(len(now), np.int64)
    fresh = np.empty(len(now), bool)
    fresh[order] = occurrence >= had
    return fresh if (~fresh).sum() == len(before) else None


def _spread(fresh: Array, finite: Sequence[Array]) -> list[Array]:
    """A mask of all finite rows as masks of the shards."""
    ends = np.cumsum([int(mask.sum()) for mask in finite])
    masks = []
    for own, mask in zip(np.split(fresh, ends[:-1]), finite, strict=True):
        spread = np.zeros(len(mask), bool)
        spread[mask] = own
        masks.append(spread)
    return masks


def _sum(
    workers: Workers, leaf: Leaf, parts: list[list[Part]], size_bytes: int, dimension: int, base: Array | None = None
) -> Array:
    """The sum over parts, within each shard first, added to a base."""
    if not parts:
        return np.zeros((dimension,) * (2 if leaf is outer_part else 1)) if base is None else base
    # Beside a block's own: what a piece adds, and a sum that waits for its neighbour.
    total: Array = tree_sum(leaf, parts, workers, block_bytes=BLOCK_HELD_BYTES + 3 * size_bytes)
    return total if base is None else base + total


def _without_retired(workers: Workers, leaf: Leaf, roots: CodeSet, total: Array, size_bytes: int) -> Array:
    """The total without the retired rows."""
    gone = parts_of(roots.shards, [shard.finite & ~shard.counted for shard in roots.shards])
    if not gone:
        return total
    taken = _sum(workers, leaf, gone, size_bytes, roots.dimension)
    if _trace(taken) <= MOST_TAKEN * _trace(total):
        return total - taken
    left = parts_of(roots.shards, [shard.counted for shard in roots.shards])
    return _sum(workers, leaf, left, size_bytes, roots.dimension)


def _trace(total: Array) -> float:
    return float(np.trace(total) if total.ndim == 2 else total.sum())
