"""Rows of a shard that need no capture: an older store at the same place has them, captured from the same content.

When rows are appended, relabelled, moved or deleted, a shard's content changes while most of its rows do not. What an
older store of the same provenance and code holds of them is copied bit for bit; the others are captured. A row is known
by its content hash. Rows that moved to another shard are captured again: jobs of two shards know nothing of each other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.steps.code import stands_for
from pipeline.steps.job import Job
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest, kept_manifest

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

OF_THE_PLACE = ("rows", "shard", "chosen")
"""Keys of an identity that say which rows a store holds, not how they were captured."""

COPIED_BYTES = 2**26
"""Stored columns that are held at once."""


@dataclass(frozen=True)
class Older:
    """What an older store has: its manifest, arrays, and where each content is in it."""

    manifest: Manifest
    arrays: Arrays
    at: dict[bytes, int]

    def columns(self, rows: Array) -> Columns:
        """All columns of some rows, in their order; without positions, which may have changed."""
        wanted, inverse = np.unique(rows, return_inverse=True)
        whole = len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted)
        picked = slice(int(wanted[0]), int(wanted[-1]) + 1) if whole else wanted
        return {name: self.arrays.read(name, picked)[inverse] for name in self.arrays.names() if name != "position"}


def older(job: Job, path: Path, kind: str, identity: dict[str, Any]) -> Older | None:
    """The older store at `path`, if its rows were captured as they would be now.

    Args:
        job: of the stage that writes it.
        path: the store.
        kind: of artefact.
        identity: that the new store will have.
    """
    manifest = kept_manifest(path, kind)
    if manifest is None or _how(manifest.identity) != _how(identity):
        return None
    if not stands_for(job.stage, manifest.record["code"], job.config, job.layout.run):
        return None
    try:
        arrays = Arrays(path)
        contents = arrays.read("content") if "content" in arrays else np.zeros((0, 16), np.uint8)
        return Older(manifest, arrays, {bytes(row): i for i, row in enumerate(contents)})
    except StoreError:
        return None


def _how(identity: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key not in OF_THE_PLACE}


def found_in(stores: Sequence[Older | None], hashes: Array) -> Array:
    """Where each store has rows of these contents [n, 16], [stores, n]; -1 where one of the stores lacks the row."""
    at = np.array([[store.at.get(bytes(row), -1) if store else -1 for row in hashes] for store in stores], np.int64)
    at = at.reshape(len(stores), len(hashes))
    at[:, (at < 0).any(0)] = -1
    return at


def windows(fresh: Array, size: int, most: int) -> Iterator[slice]:
    """Consecutive rows [n], so that a window has `size` fresh ones (a batch) or fewer, and no more than `most` rows.

    >>> [(part.start, part.stop) for part in windows(np.array([True, True, False, True, True, True]), 2, 9)]
    [(0, 3), (3, 5), (5, 6)]
    """
    start, total = 0, len(fresh)
    before = np.concatenate([[0], np.cumsum(fresh)])
    while start < total:
        full = int(np.searchsorted(before, before[start] + size, side="right")) - 1
        stop = min(start + most, full)
        yield slice(start, stop)
        start = stop


def most_rows(row_bytes: int, size: int) -> int:
    """Rows of a window whose copied columns stay within bounds, and a batch at least."""
    return max(size, COPIED_BYTES // max(1, row_bytes))


def merged(captured: Columns | None, copied: Columns | None, fresh: Array) -> Columns:
    """One table of captured rows (where `fresh`, [n]) and copied ones, in order."""
    if captured is None or copied is None:
        return captured or copied or {}
    table = {}
    for name, values in captured.items():
        table[name] = np.empty((len(fresh), *values.shape[1:]), values.dtype)
        table[name][fresh], table[name][~fresh] = values, copied[name]
    return table


def with_hashes(columns: Columns, contents: Array) -> Columns:
    """The columns with what makes a row known: hash of its content, [n, 16], and of its stored code, [n]."""
    return {**columns, "content": np.asarray(contents, np.uint8), "code_hash": code_hashes(columns)}


def code_hashes(columns: Columns) -> Array:
    """64 bits that name the stored code of each row, [n]: equal where index and sums need no change."""
    parts = [columns[name] for name in ("codes", "row_scale", "block_scale") if name in columns]
    rows = len(parts[0])
    if not rows:
        return np.zeros(0, np.uint64)
    flat = np.concatenate([np.ascontiguousarray(part).reshape(rows, -1).view(np.uint8) for part in parts], axis=1)
    hashes = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in flat)
    return np.frombuffer(b"".join(hashes), np.uint64)
