"""What estimators read, from the stores of a run: rows in blocks, sums over them, curvature. Needs no torch.

The workflow's side of `pipeline.core.estimators.base.Stores`. Sums are made block by block by the workers, in an order
that does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline.core.estimators import ESTIMATORS, Estimator
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.methods import CURVATURE_SPLIT, SOLVED
from pipeline.shards import Plan
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeSet
from pipeline.steps.pieces import Losses, Picked, RowBlock, row_blocks
from pipeline.steps.preconditioned import check_curvature, open_preconditioner
from pipeline.steps.stores import open_candidates, open_codes
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.storage.reduction import Workers, each, tree_sum

Array = np.ndarray[Any, Any]


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

    def digests_of_solved(self, names: Iterable[str]) -> list[str]:
        """Of what solvers left, for those of some methods that want it."""
        return [read_manifest(self.layout.solved(name)).digest for name in SOLVED if name in names]

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
                f"got those of {len(positions)}; set candidates.rows to all, candidates.max_classes to at least "
                f"{len(self.plan.classes)}, and run `lowland run`"
            )
        return positions, np.concatenate([-shard.read("loss")[shard.counted].astype(np.float64) for shard in shards])

    def _present(self) -> int:
        return int(self.sets("train", ["flat"])["flat"].counted().sum())


def fitted(stores: RunStores, name: str, at: Sequence[str]) -> Estimator:
    """The estimator of a name, fitted at some checkpoints."""
    return ESTIMATORS[name].fit(stores, at)


@dataclass(frozen=True)
class Asked:
    """A block of rows, and which of them some estimators are not asked about, [n] bool: what these say is known."""

    block: RowBlock
    known: Array


def score_rows(stores: RunStores, estimators: Mapping[str, tuple[Estimator, Sequence[str]]], done: Callable[[], None],
               known: Array | None = None, said: Mapping[str, Array] | None = None) -> dict[str, Array]:  # fmt: skip
    """Scores of all train rows by position, [N] each, in one pass over the stores; NaN for rows that do not count.

    Args:
        stores: of the run.
        estimators: name -> fitted estimator and its checkpoints.
        done: called after each block.
        known: rows [N] bool that some estimators need not be asked about.
        said: their names, and what each says of these rows, in order.
    """
    count, said = stores.plan.splits["train"].rows, said or {}
    known = np.zeros(count, bool) if known is None else known
    at = list(dict.fromkeys(name for _, names in estimators.values() for name in names))
    blocks = row_blocks(stores.sets("train", at), stores.losses("train"))
    asked = [Asked(block, known[block.positions]) for block in blocks]
    parts = each(scores_of, asked, stores.workers, (dict(estimators), tuple(said)), len(at) * BLOCK_HELD_BYTES, done)
    columns = {name: np.full(count, np.nan) for name in estimators}
    for name, values in said.items():
        columns[name][known] = values
    for part in parts:
        for name, (positions, values) in part.items():
            columns[name][positions] = values
    return columns


def scores_of(asked: Asked, estimators: Mapping[str, tuple[Estimator, Sequence[str]]],
              said: Sequence[str]) -> dict[str, Any]:  # fmt: skip
    """Positions and scores of a block's rows, name by name; for names in `said`, of the rows that are not known."""
    found: dict[str, list[tuple[Array, Array]]] = {name: [] for name in estimators}
    for piece in asked.block.pieces():
        for name, (estimator, at) in estimators.items():
            rows = piece.of(at, ~asked.known[piece.part] if name in said else None)
            if len(rows.positions):
                found[name].append((rows.positions, estimator.rows(rows)))
    return {name: tuple(np.concatenate(each) for each in zip(*parts, strict=True))
            for name, parts in found.items() if parts}  # fmt: skip
