"""Rows of a split as they stand at several checkpoints, a few at a time: what estimators are asked about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.codec import Encoded
from pipeline.steps.codes import PIECE_BYTES, CodeBlock, CodeSet
from pipeline.storage.opened import open_arrays

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Losses:
    """Losses of a split's rows at the members of the geometric ensemble, read when asked for."""

    path: Path
    split: str

    def of(self, positions: Array) -> Array:
        """[n, M] float64."""
        return open_arrays(self.path, "losses")[1].read(self.split, positions).astype(np.float64)


@dataclass(frozen=True)
class Piece:
    """A few rows of a block, decoded when asked for."""

    blocks: Mapping[str, CodeBlock]
    stored: Callable[[str], Encoded]
    """The codes of the whole block at a checkpoint."""
    part: slice
    """Within the block."""
    losses: Losses
    decoded: dict[str, Array] = field(default_factory=dict)

    def of(self, at: Sequence[str], wanted: Array | None = None) -> PieceRows:
        """Those that count at some checkpoints, out of those that are wanted, [n] bool."""
        kept = np.ones(self.part.stop - self.part.start, bool) if wanted is None else wanted.copy()
        for checkpoint in at:
            kept &= self.blocks[checkpoint].shard.counted[self._in_shard(checkpoint)]
        return PieceRows(self, kept)

    def codes(self, checkpoint: str) -> Array:
        """Of all rows, [n, K] float64."""
        if checkpoint not in self.decoded:
            encoded = Encoded(*(each[self.part] for each in self.stored(checkpoint)))
            self.decoded[checkpoint] = self.blocks[checkpoint].shard.codec.decode(encoded).astype(np.float64)
        return self.decoded[checkpoint]

    def column(self, checkpoint: str, name: str) -> Array:
        """Of all rows, [n]."""
        return self.blocks[checkpoint].shard.read(name, self._in_shard(checkpoint))

    def positions(self, checkpoint: str) -> Array:
        """Of all rows, in the split, [n]."""
        found: Array = self.blocks[checkpoint].shard.positions[self._in_shard(checkpoint)]
        return found

    def _in_shard(self, checkpoint: str) -> slice:
        first = self.blocks[checkpoint].rows.start
        return slice(first + self.part.start, first + self.part.stop)


@dataclass(frozen=True)
class PieceRows:
    """The rows of a piece that count."""

    piece: Piece
    kept: Array

    @property
    def positions(self) -> Array:
        """See `Rows`."""
        return self.piece.positions(next(iter(self.piece.blocks)))[self.kept]

    def codes(self, checkpoint: str) -> Array:
        """See `Rows`."""
        codes = self.piece.codes(checkpoint)
        return codes if self.kept.all() else codes[self.kept]

    def column(self, checkpoint: str, name: str) -> Array:
        """See `Rows`."""
        return self.piece.column(checkpoint, name)[self.kept]

    def ensemble(self) -> Array:
        """See `Rows`."""
        return self.piece.losses.of(self.positions)


@dataclass(frozen=True)
class Picked:
    """Single rows of a split, [q]."""

    sets: Mapping[str, CodeSet]
    positions: Array
    losses: Losses

    def codes(self, checkpoint: str) -> Array:
        """See `Rows`."""
        return self.sets[checkpoint].gather(self.positions).astype(np.float64)

    def column(self, checkpoint: str, name: str) -> Array:
        """See `Rows`."""
        return self.sets[checkpoint].column(name)[self.positions]

    def ensemble(self) -> Array:
        """See `Rows`."""
        return self.losses.of(self.positions)


@dataclass(frozen=True)
class RowBlock:
    """A block of rows at several checkpoints: what a worker reads at once."""

    blocks: Mapping[str, CodeBlock]
    losses: Losses

    def pieces(self) -> Iterator[Piece]:
        """A few rows at a time."""

        @cache
        def stored(checkpoint: str) -> Encoded:
            block = self.blocks[checkpoint]
            return block.shard.stored(block.rows)

        widest = max(len(block.shard.codec.column_scale) for block in self.blocks.values())
        step = max(1, PIECE_BYTES // (8 * widest))
        for start in range(0, self.rows, step):
            yield Piece(self.blocks, stored, slice(start, min(start + step, self.rows)), self.losses)

    @property
    def rows(self) -> int:
        """How many."""
        of_shard = next(iter(self.blocks.values())).rows
        return of_shard.stop - of_shard.start

    @property
    def positions(self) -> Array:
        """In the split, [n]."""
        block = next(iter(self.blocks.values()))
        found: Array = block.shard.positions[block.rows]
        return found


def row_blocks(sets: Mapping[str, CodeSet], losses: Losses) -> list[RowBlock]:
    """All rows of a split, as work for `pipeline.storage.reduction`."""
    first, found = next(iter(sets.values())), []
    for i, shard in enumerate(first.shards):
        for rows in shard.blocks():
            found.append(RowBlock({name: CodeBlock(each.shards[i], rows) for name, each in sets.items()}, losses))
    return found
