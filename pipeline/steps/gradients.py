"""Gradients: the codes of one shard of one split at a checkpoint, or at several in one pass over the rows.

Rows that the former store of the shard holds already are copied from it, bit for bit (`pipeline.steps.reuse`).
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.core.codec import Codec
from pipeline.errors import LowlandError
from pipeline.steps import reuse
from pipeline.steps.capture import (
    Captured,
    Capturer,
    device_of,
    naming_rows,
    set_up_fitted,
    shard_identity,
    stored_columns,
)
from pipeline.steps.codes import FINITE
from pipeline.steps.job import Job
from pipeline.steps.memory import EXCLUDE, batch_rows, plan_of, together
from pipeline.steps.stores import open_codec
from pipeline.steps.tasks import task_of, use_threads
from pipeline.storage.arrays import ArrayWriter
from pipeline.storage.artefact import Manifest
from pipeline.storage.opened import open_arrays
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

FEWER = "name fewer checkpoints at a time"


@dataclass(frozen=True)
class Models:
    """The models of a job, each set up when its first row is captured: a job that only copies needs none."""

    job: Job
    checkpoints: list[str]
    split: str

    @cached_property
    def task(self) -> Task:
        """The task of the run."""
        return task_of(self.job.config, self.job.plan())

    @cached_property
    def capturers(self) -> list[Capturer]:
        """One a checkpoint."""
        return [set_up_fitted(self.task, self.job.layout, self.job.config, each)[0] for each in self.checkpoints]

    @cached_property
    def rows(self) -> RowSet:
        """The rows of the split, where the models are."""
        return row_set(self.task, self.split, device_of(self.capturers[0].model))


@dataclass(frozen=True)
class Store:
    """A store that is being written: at one checkpoint."""

    codec: Codec
    writer: ArrayWriter
    record: dict[str, Any]
    total: int
    older: reuse.Older | None
    flagged: list[int] = field(default_factory=list)
    errors: list[Array] = field(default_factory=list)

    def append(self, positions: Array, columns: reuse.Columns) -> None:
        """Append the rows at these positions; those that are not finite are noted."""
        for name, column in columns.items():
            self.writer.append(name, column, total=self.total)
        self.flagged.extend(int(at) for at in positions[columns["flag"] != FINITE])
        known = columns["norm_full"] > 0
        self.errors.append(columns["norm_full_error"][known] / columns["norm_full"][known])

    def norm_error(self) -> float:
        """Median standard error of the rows' norms as a share of them; 0 where they are exact."""
        errors = np.concatenate([*self.errors, np.zeros(0)])
        return float(np.median(errors)) if len(errors) else 0.0


def run(job: Job, checkpoint: str, split: str, shard: str) -> None:
    """Write `gradients/<checkpoint>/<split>/<shard>.zarr`; several checkpoints are separated by commas.

    Arrays: codes [n, K], row_scale, norm_code (of the decoded code), norm_full (of the gradient in all P parameters),
    norm_full_error (its standard error; 0 where it is exact), loss (nats), flag (1: not finite, excluded from curvature
    and index) and code_hash, each [n]; block_scale [n, b] of int8; content [n, 16], the hash of what the row holds.

    Raises:
        CapacityError: all models and projections together with a batch are planned to exceed `compute.memory_mb`.
    """
    use_threads(job.config)
    models = Models(job, checkpoint.split(","), split)
    positions = np.array(job.plan().splits[split].shard(shard).positions, np.int64)
    fitted = {each: open_codec(job.layout, each) for each in models.checkpoints}
    plan = together([plan_of(projection) for _, projection in fitted.values()], [codec for codec, _ in fitted.values()])
    size = batch_rows(job, plan, EXCLUDE if len(fitted) == 1 else FEWER)
    with ExitStack() as stack:
        stores = [_open(job, stack, each, split, shard, len(positions), *own) for each, own in fitted.items()]
        copied = _write(job, models, stores, positions, size)
        for i, store in enumerate(stores):
            store.record.update(flagged=store.flagged, batch_rows=size, rows=len(positions), copied=copied)
            store.record.update(norm_error=store.norm_error())
            store.record.update(_coverage(models, i, store, captured=copied < len(positions)))
    for each, store in zip(models.checkpoints, stores, strict=True):
        if store.record["norm_error"]:
            job.say(
                f"norms of whole gradients at {each} are estimates, off by {store.record['norm_error']:.1%} (median "
                "standard error); gradients.norms: exact takes longer"
            )
        if store.flagged:
            job.say(
                f"rows without a finite loss or gradient at {each}, excluded from curvature and index: "
                f"{store.flagged[:20]}"
            )


def _open(
    job: Job, stack: ExitStack, checkpoint: str, split: str, shard: str, total: int, codec: Codec, projection: Manifest
) -> Store:
    """The store that the gradients at a checkpoint go to; sealed when the stack is left."""
    identity = shard_identity(job, projection, checkpoint, split, shard)
    place = job.layout.gradients(checkpoint, split, shard)
    older = reuse.older(job, place, "gradients", identity)
    path, record = stack.enter_context(job.writing(place, "gradients", identity))
    return Store(codec, stack.enter_context(ArrayWriter(path)), record, total, older)


def _coverage(models: Models, i: int, store: Store, captured: bool) -> dict[str, Any]:
    """What was captured, and how, for the record: as now, or as when the rows were captured that are copied."""
    if captured or store.older is None:
        capturer = models.capturers[i]
        return {"engines": capturer.coverage.served, "left_out": capturer.left_out}
    return {key: store.older.manifest.record[key] for key in ("engines", "left_out")}


def _write(job: Job, models: Models, stores: list[Store], positions: Array, size: int) -> int:
    """Capture or copy all rows, `size` captured ones at a time; each is read once. Returns how many were copied."""
    _, arrays = open_arrays(job.layout.hashes, "rows")
    hashes = arrays.read(models.split)[positions]
    found = reuse.found_in([store.older for store in stores], hashes)
    fresh, most = found[0] < 0, reuse.most_rows(stores[0].codec.row_bytes, size)
    progress = job.progress(f"{models.split} gradients", len(positions))
    for part in reuse.windows(fresh, size, most):
        new, at = fresh[part], positions[part]
        captured = _captured(models, at[new]) if new.any() else [None] * len(stores)
        for i, store in enumerate(stores):
            columns = _columns(store, captured[i], hashes[part][new], found[i, part][~new], new)
            store.append(at, columns)
        progress.add(len(at))
    if not len(positions):
        for store in stores:
            _append_nothing(store)
    return int((~fresh).sum())


def _captured(models: Models, positions: Array) -> list[Captured | None]:
    """What the rows at these positions give at each checkpoint."""
    chosen = [int(position) for position in positions]
    try:
        batch: Batch = models.rows.batch(chosen) if models.capturers else None
        return [capturer.capture(batch, len(chosen)) for capturer in models.capturers]
    except LowlandError as error:
        raise naming_rows(error, f"{models.split} gradients", chosen[0], chosen[-1] + 1) from error


def _columns(store: Store, captured: Captured | None, contents: Array, old_rows: Array, fresh: Array) -> reuse.Columns:
    """The columns of a window: of captured rows, and of those that the older store has."""
    new = None if captured is None else reuse.with_hashes(stored_columns(store.codec, captured), contents)
    old = store.older.columns(old_rows) if store.older and len(old_rows) else None
    return reuse.merged(new, old, fresh)


def _append_nothing(store: Store) -> None:
    """The arrays of a shard all of whose rows were dropped."""
    nothing = np.zeros(0)
    empty = Captured(np.zeros((0, len(store.codec.column_scale)), np.float32), nothing, nothing, nothing,
                     np.zeros(0, np.uint8))  # fmt: skip
    store.append(np.zeros(0, np.int64), reuse.with_hashes(stored_columns(store.codec, empty), np.zeros((0, 16))))
