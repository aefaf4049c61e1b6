"""What estimators read, from the stores of a run: rows in blocks, sums over them, curvature. Needs no torch.

The workflow's side of `pipeline.core.estimators.base.Stores`. Sums are made block by block by the workers, in an order
that does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.codec import Encoded
from pipeline.core.estimators import ESTIMATORS, Estimator
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.methods import CURVATURE_SPLIT
from pipeline.shards import Plan
from pipeline.steps.codes import BLOCK_HELD_BYTES, PIECE_BYTES, CodeBlock, CodeSet
from pipeline.steps.preconditioned import check_curvature, open_preconditioner
from pipeline.steps.stores import open_candidates, open_codes
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.storage.reduction import Workers, each, tree_sum

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
    stored: Mapping[str, Encoded]
    part: slice
    """Within the block."""
    losses: Losses
    decoded: dict[str, Array] = field(default_factory=dict)

    def of(self, at: Sequence[str]) -> PieceRows:
        """Those that count at some checkpoints."""
        kept = np.ones(self.part.stop - self.part.start, bool)
        for checkpoint in at:
            kept &= self.blocks[checkpoint].shard.counted[self._in_shard(checkpoint)]
        return PieceRows(self, kept)

    def codes(self, checkpoint: str) -> Array:
        """Of all rows, [n, K] float64."""
        if checkpoint not in self.decoded:
            encoded = Encoded(*(each[self.part] for each in self.stored[checkpoint]))
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
        stored = {name: block.shard.stored(block.rows) for name, block in self.blocks.items()}
        count = len(next(iter(stored.values())).codes)
        widest = max(len(block.shard.codec.column_scale) for block in self.blocks.values())
        step = max(1, PIECE_BYTES // (8 * widest))
        for start in range(0, count, step):
            yield Piece(self.blocks, stored, slice(start, min(start + step, count)), self.losses)


def row_blocks(sets: Mapping[str, CodeSet], losses: Losses) -> list[RowBlock]:
    """All rows of a split, as work for `pipeline.storage.reduction`."""
    first, found = next(iter(sets.values())), []
    for i, shard in enumerate(first.shards):
        for rows in shard.blocks():
            found.append(RowBlock({name: CodeBlock(each.shards[i], rows) for name, each in sets.items()}, losses))
    return found


def total_of(block: RowBlock, at: Sequence[str], part: Callable[[Any], Any]) -> Any:
    """The sum over the pieces of a block."""
    total = None
    for piece in block.pieces():
        value = part(piece.of(at))
        total = value if total is None else total + value
    return total


@dataclass(frozen=True)
class RunStores:
    """The stores of a run, for `Estimator.fit`."""

    layout: Layout
    plan: Plan
    workers: Workers
    opened: dict[tuple[str, str], CodeSet] = field(default_factory=dict)

    def sets(self, split: str, at: Sequence[str]) -> dict[str, CodeSet]:
        """The gradients of a split at some checkpoints."""
        for name in at:
            if (split, name) not in self.opened:
                self.opened[split, name] = open_codes(self.layout, self.plan, name, split)
        return {name: self.opened[split, name] for name in at}

    def losses(self, split: str) -> Losses:
        """Of the rows of a split at the geometric ensemble."""
        return Losses(self.layout.losses, split)

    def picked(self, split: str, at: Sequence[str], positions: Array) -> Picked:
        """Single rows of a split."""
        return Picked(self.sets(split, at), positions, self.losses(split))

    def digests(self) -> dict[str, list[str]]:
        """Of all gradients that were opened, for the identity of what was made from them."""
        return {f"{name} {split}": codes.digests() for (split, name), codes in sorted(self.opened.items())}

    @property
    def damping(self) -> float:
        """See `Stores`."""
        return float(read_manifest(self.layout.curvature("trained", "train")).identity["curvature"]["damping"])

    def total(self, split: str, at: Sequence[str], part: Callable[[Any], Any]) -> Any:
        """See `Stores`."""
        blocks = row_blocks(self.sets(split, at), self.losses(split))
        return tree_sum(total_of, blocks, self.workers, (tuple(at), part), len(at) * BLOCK_HELD_BYTES)

    def preconditioner(self, checkpoint: str) -> Preconditioner:
        """See `Stores`."""
        split = CURVATURE_SPLIT[checkpoint]
        if split == "train":
            check_curvature(self.layout, checkpoint, self.sets(split, [checkpoint])[checkpoint])
        return open_preconditioner(self.layout, checkpoint, split)[0]

    def rate(self, checkpoint: str) -> float:
        """See `Stores`: as recorded with an epoch; 1 for the only checkpoint."""
        if not checkpoint.startswith("epoch-"):
            return 1.0
        return float(read_manifest(self.layout.checkpoint(checkpoint)).record["learning_rate"])

    def blocks(self, checkpoint: str) -> Sequence[slice]:
        """See `Stores`: as the projection recorded them; a turned code mixes them."""
        manifest = read_manifest(self.layout.projection(checkpoint))
        edges = manifest.record.get("blocks") if manifest.identity["gradients"]["codec"] == "float32" else None
        edges = edges or [0, self.sets("train", [checkpoint])[checkpoint].dimension]
        return [slice(start, stop) for start, stop in pairwise(edges)]

    def solved(self, name: str) -> Array:
        """See `Stores`."""
        return open_arrays(self.layout.solved(name), "solved")[1].read("train")

    def classes(self) -> bool:
        """See `Stores`."""
        return bool(self.plan.classes)

    def labels(self) -> Array:
        """See `Stores`."""
        return open_arrays(self.layout.hashes, "rows")[1].read("train_label")

    def log_probabilities(self, checkpoint: str) -> tuple[Array, Array]:
        """See `Stores`: minus the losses under all labels."""
        shards = open_candidates(self.layout, self.plan, checkpoint, "train").shards
        positions = np.concatenate([shard.positions[shard.counted] for shard in shards])
        if len(positions) < self._present():
            raise StoreError(
                f"expected the losses of all {self._present()} train rows under every label for confident_learning, "
                f"got those of {len(positions)}; set candidates.rows to all and run `lowland run`"
            )
        return positions, np.concatenate([-shard.read("loss")[shard.counted].astype(np.float64) for shard in shards])

    def _present(self) -> int:
        return int(self.sets("train", ["flat"])["flat"].counted().sum())


def fitted(stores: RunStores, name: str, at: Sequence[str]) -> Estimator:
    """The estimator of a name, fitted at some checkpoints."""
    return ESTIMATORS[name].fit(stores, at)


def score_rows(stores: RunStores, estimators: Mapping[str, tuple[Estimator, Sequence[str]]],
               done: Callable[[], None]) -> dict[str, Array]:  # fmt: skip
    """Scores of all train rows by position, [N] each, in one pass over the stores; NaN for rows that do not count.

    Args:
        stores: of the run.
        estimators: name -> fitted estimator and its checkpoints.
        done: called after each block.
    """
    at = list(dict.fromkeys(name for _, names in estimators.values() for name in names))
    blocks = row_blocks(stores.sets("train", at), stores.losses("train"))
    parts = each(scores_of, blocks, stores.workers, (dict(estimators),), len(at) * BLOCK_HELD_BYTES, done)
    columns = {name: np.full(stores.plan.splits["train"].rows, np.nan) for name in estimators}
    for part in parts:
        for name, (positions, values) in part.items():
            columns[name][positions] = values
    return columns


def scores_of(block: RowBlock, estimators: Mapping[str, tuple[Estimator, Sequence[str]]]) -> dict[str, Any]:
    """Positions and scores of a block's rows, name by name."""
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in estimators}
    for piece in block.pieces():
        for name, (estimator, at) in estimators.items():
            rows = piece.of(at)
            found[name].append((rows.positions, estimator.rows(rows)))
    return {name: tuple(np.concatenate(each) for each in zip(*parts, strict=True)) for name, parts in found.items()}
