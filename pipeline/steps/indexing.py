"""What an index holds, and how it differs from what the stores hold now: rows are added and taken out.

A row in an index is its position with the hash of its code. An index is built anew where its kind cannot give rows
back, where most rows differ, and where its quantisers were fitted to less than half as many rows as there are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.steps.code import stands_for
from pipeline.steps.codes import CodeSet
from pipeline.steps.job import Job
from pipeline.steps.space import Space, open_space
from pipeline.storage import indexes
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest, kept_manifest

Array = np.ndarray[Any, Any]

MOST_CHANGED = 0.5
"""Share of the rows beyond which an index is built anew."""
MOST_GROWN = 2
"""How many times the rows of its training an index with quantisers may grow."""


@dataclass(frozen=True)
class Rows:
    """Rows of an index: ascending positions [n] and hashes of their codes [n]."""

    positions: Array
    codes: Array

    def without(self, other: Rows) -> Array:
        """Positions of the rows that the other lacks, or holds with another code."""
        if not len(other.positions):
            return self.positions
        at = np.searchsorted(other.positions, self.positions).clip(max=len(other.positions) - 1)
        same = (other.positions[at] == self.positions) & (other.codes[at] == self.codes)
        return self.positions[~same]


def rows_of(codes: CodeSet) -> Rows:
    """All finite rows of the stores, retired ones too: these are left out when answers are given."""
    positions = np.concatenate([shard.positions[shard.finite] for shard in codes.shards])
    hashes = np.concatenate([shard.read("code_hash")[shard.finite] for shard in codes.shards])
    return Rows(positions, hashes)


def vectors(codes: CodeSet, space: Space, wanted: Array | None = None) -> Iterator[tuple[Array, Array]]:
    """Positions and vectors of all finite rows, or of those wanted (ascending), in blocks: [n], [n, K] float32."""
    for shard in codes.shards:
        taken = shard.finite if wanted is None else shard.finite & np.isin(shard.positions, wanted, assume_unique=True)
        for block in shard.blocks():
            if taken[block].any():
                yield shard.positions[block][taken[block]], space.rows(shard.codes(block)[taken[block]])


@dataclass(frozen=True)
class Older:
    """A former index, the space and the rows that it holds, and the record of how it was made."""

    index: indexes.Index
    space: Space
    rows: Rows
    record: dict[str, Any]


def older(job: Job, manifest: Manifest | None, checkpoint: str, identity: dict[str, Any],
          conditions: dict[str, Any], whitened: bool) -> Older | None:  # fmt: skip
    """The former index behind a manifest, if it is one that rows can be added to for an index of this identity.

    One of half-whitened rows stays in the space that it was built in while the curvature is of the same kind and
    damping: new rows change it little, and any curvature asks it rightly.
    """
    path, listed = (place(checkpoint, identity["metric"]) for place in (job.layout.index, job.layout.indexed))
    table = kept_manifest(listed, "indexed")
    if manifest is None or table is None or manifest.record["rows_digest"] != table.digest:
        return None
    had = manifest.identity
    if any(had.get(key) != identity[key] for key in ("projection", "metric", "factory")):
        return None
    if not stands_for(job.stage, manifest.record["code"], job.config, job.layout.run):
        return None
    space = open_space(job.layout, checkpoint, had)
    if space is None or (space.whitening is not None) != whitened:
        return None
    if whitened and manifest.record["recall_of"]["curvature"] != conditions["curvature"]:
        return None
    index, arrays = indexes.load(path, job.config.compute.threads), Arrays(listed)
    return Older(index, space, Rows(arrays.read("row"), arrays.read("code")), manifest.record)


def updated(found: Older, codes: CodeSet) -> tuple[int, int] | None:
    """Bring a former index to what the stores hold: rows added and taken out; None where it must be built anew."""
    now = rows_of(codes)
    added, gone = now.without(found.rows), found.rows.without(now)
    if len(added) + len(gone) > MOST_CHANGED * len(now.positions):
        return None
    if found.index.trained_on_rows and len(now.positions) > MOST_GROWN * found.record["trained_rows"]:
        return None
    if not found.index.remove(gone):
        return None
    if len(added):
        found.index.add(vectors(codes, found.space, added))
    return len(added), len(gone)
