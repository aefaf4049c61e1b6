"""Codes as readers see them: shards of a split, their rows in blocks, and single rows. Needs no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.codec import Codec, Encoded
from pipeline.errors import StoreError
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest

Array = np.ndarray[Any, Any]

BLOCK_BYTES = 2**27
"""A block: as many rows as take so much as float64. It is a unit of work, and sums are added block by block, so that no
result depends on the memory that there is."""
PIECE_BYTES = 2**23
"""Decoded codes that are held at once, as float64."""

FINITE, NOT_FINITE = 0, 1
"""Flags of a row: its loss and gradient are numbers; or not, and then it is kept out of curvature and index."""


@dataclass(frozen=True)
class CodeShard:
    """The codes of some rows of a split: positions from `start` on but for those dropped, unless the store lists them.

    Attributes:
        path: the store.
        manifest: of the store.
        start: position of its first row.
        codec: that its codes are decoded with.
        dropped: positions that the store has no rows of.
        retired: positions whose rows take part in no answer.
    """

    path: Path
    manifest: Manifest
    start: int
    codec: Codec
    dropped: tuple[int, ...] = ()
    retired: tuple[int, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Its fields, for a worker elsewhere, which opens the store itself."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"path": self.path.absolute()}

    @cached_property
    def arrays(self) -> Arrays:
        """The stored arrays, opened when first needed."""
        return Arrays(self.path)

    def codes(self, rows: slice | Array | None = None) -> Array:
        """Decoded codes, float32: [n, K], or [n, C, K] of a shard of candidates."""
        return self.codec.decode(self.stored(rows))

    def picked(self, rows: Array) -> tuple[Encoded, Array]:
        """Codes as they are stored, and their norms, at some places of the shard, ascending; without checksums."""
        codes, scales = self.arrays.pick("codes", rows), self.arrays.pick("row_scale", rows)
        blocks = self.arrays.pick("block_scale", rows) if "block_scale" in self.arrays else _no_blocks(scales)
        return Encoded(codes, scales, blocks), self.arrays.pick("norm_code", rows)

    def read(self, name: str, rows: slice | None = None) -> Array:
        """Another array of the shard, whole or some rows."""
        return self.arrays.read(name, rows)

    def blocks(self) -> Iterator[slice]:
        """The shard's rows in blocks of bounded size, in order: a row under 100 labels is 100 codes."""
        total, *labels, _ = self.arrays.shape("codes")
        step = max(1, BLOCK_BYTES // (8 * math.prod(labels) * self.codec.dimension))
        yield from (slice(start, min(start + step, total)) for start in range(0, total, step))

    def parts(self) -> list[CodeBlock]:
        """The blocks, as work for `pipeline.storage.reduction`."""
        return [CodeBlock(self, rows) for rows in self.blocks()]

    def stored(self, rows: slice | Array | None = None) -> Encoded:
        """Codes as they are stored."""
        codes, row_scale = self.arrays.read("codes", rows), self.arrays.read("row_scale", rows)
        blocks = self.arrays.read("block_scale", rows) if "block_scale" in self.arrays else _no_blocks(row_scale)
        return Encoded(codes, row_scale, blocks)

    @cached_property
    def positions(self) -> Array:
        """Positions of the shard's rows in the split, [n]."""
        if "position" in self.arrays:
            return self.arrays.read("position")
        every = np.arange(self.start, self.start + self.arrays.rows("codes") + len(self.dropped))
        return every[~np.isin(every, self.dropped)] if self.dropped else every

    @cached_property
    def finite(self) -> Array:
        """Which rows are numbers, [n] bool."""
        return self.arrays.read("flag") == FINITE

    @cached_property
    def counted(self) -> Array:
        """Which rows take part in answers, [n] bool: those that are numbers and not retired."""
        return self.finite & ~np.isin(self.positions, self.retired) if self.retired else self.finite


def _no_blocks(row_scale: Array) -> Array:
    return np.zeros((*row_scale.shape, 0), np.uint8)


@dataclass(frozen=True)
class CodeBlock:
    """Some rows of a shard: what a worker reads at once."""

    shard: CodeShard
    rows: slice

    def pieces(self, wanted: Array | None = None) -> Iterator[tuple[slice, Array]]:
        """A few rows of the shard at a time, and their decoded codes, [n, K] or [n, C, K] float32.

        Args:
            wanted: rows of the block, bool; pieces that hold none of them are left out.
        """
        stored = self.shard.stored(self.rows)
        step = max(1, PIECE_BYTES // (8 * math.prod(stored.codes.shape[1:-1]) * self.shard.codec.dimension))
        for start in range(0, len(stored.codes), step):
            if wanted is not None and not wanted[start : start + step].any():
                continue
            piece = Encoded(*(part[start : start + step] for part in stored))
            first = self.rows.start + start
            yield slice(first, first + len(piece.codes)), self.shard.codec.decode(piece)


BLOCK_HELD_BYTES = BLOCK_BYTES // 2 + 8 * PIECE_BYTES
"""What a worker takes for a block: its codes as stored, float32 at most, and copies of a decoded piece."""


@dataclass(frozen=True)
class CodeSet:
    """All shards of a split at a checkpoint."""

    shards: tuple[CodeShard, ...]
    rows: int

    @property
    def manifests(self) -> list[Manifest]:
        """The shards' manifests, in order."""
        return [shard.manifest for shard in self.shards]

    def digests(self) -> list[str]:
        """What the shards are, for the identity of what is made from them."""
        return [manifest.digest for manifest in self.manifests]

    def column(self, name: str) -> Array:
        """One array over all shards, by position, [N, ...]; see `spread`."""
        return self.spread(np.concatenate([shard.read(name) for shard in self.shards]))

    def spread(self, values: Array) -> Array:
        """Values of the stored rows, [n, ...], by position, [N, ...]; NaN, False or 0 where there is none."""
        if len(values) == self.rows:
            return values
        out = np.zeros((self.rows, *values.shape[1:]), values.dtype)
        if values.dtype.kind == "f":
            out[:] = np.nan
        out[np.concatenate([shard.positions for shard in self.shards])] = values
        return out

    def codes(self) -> Array:
        """All decoded codes of the stored rows, [n, K] float32: for splits that fit into memory."""
        return np.concatenate([shard.codes() for shard in self.shards])

    def parts(self) -> list[CodeBlock]:
        """The blocks of all shards, in order."""
        return [part for shard in self.shards for part in shard.parts()]

    @property
    def dimension(self) -> int:
        """K."""
        return len(self.shards[0].codec.column_scale)

    def finite(self) -> Array:
        """Which rows are numbers, by position, [N] bool."""
        return self.spread(np.concatenate([shard.finite for shard in self.shards]))

    def counted(self) -> Array:
        """Which rows take part in answers, by position, [N] bool; not to be written to."""
        return self._counted

    @cached_property
    def _counted(self) -> Array:
        """Kept, as every query asks: of a million rows it takes milliseconds."""
        counted = self.spread(np.concatenate([shard.counted for shard in self.shards]))
        counted.flags.writeable = False
        return counted

    def gather(self, positions: Array) -> Array:
        """Decoded codes of some positions, in their order, [p, K] float32, checked by their norms.

        Raises:
            StoreError: no position, or codes whose norm is not the one that was stored beside them.
        """
        wanted, inverse = np.unique(np.asarray(positions), return_inverse=True)
        if not len(wanted):
            raise StoreError("expected at least one row to gather, got none")
        edges = [*np.searchsorted(wanted, [shard.start for shard in self.shards]), len(wanted)]
        mine = [wanted[start:stop] for start, stop in pairwise(edges)]
        found = [shard.picked(np.searchsorted(shard.positions, own))
                 for shard, own in zip(self.shards, mine, strict=True) if len(own)]  # fmt: skip
        stored = Encoded(*(np.concatenate(part) for part in zip(*(stored for stored, _ in found), strict=True)))
        decoded = self.shards[0].codec.decode(stored)
        self._check_norms(wanted, decoded, np.concatenate([norms for _, norms in found]))
        return decoded[inverse]

    def _check_norms(self, positions: Array, decoded: Array, expected: Array) -> None:
        """Single rows are read without checksums: their norms, [p], say whether they are what was written."""
        norms = np.sqrt(np.einsum("...k,...k->...", decoded, decoded, dtype=np.float64))
        near = (norms == expected) | (np.abs(norms - expected) <= self.shards[0].codec.norm_error * expected)
        wrong = positions[np.nonzero(~near & ~(np.isnan(norms) & np.isnan(expected)))[0]]
        if len(wrong):
            shard = next(shard for shard in reversed(self.shards) if shard.start <= wrong[0])
            raise StoreError(
                f"expected row {wrong[0]} of {shard.path} with the norm that is stored beside it, got another; run "
                "`lowland verify` to see which file it is, delete its manifest and run `lowland run`"
            )


def blocks(codes: CodeSet, retired: bool = False) -> Iterator[tuple[Array, Array]]:
    """Positions and decoded codes of the rows that count, in blocks of bounded size: [n], [n, K].

    Args:
        codes: the shards.
        retired: with those that are retired.
    """
    for shard in codes.shards:
        taken = shard.finite if retired else shard.counted
        for block in shard.blocks():
            yield shard.positions[block][taken[block]], shard.codes(block)[taken[block]]
