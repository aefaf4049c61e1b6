"""Gradients: the codes of one shard of one split at a checkpoint, or at several in one pass over the rows."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.codec import Codec
from pipeline.errors import LowlandError
from pipeline.steps.capture import (
    Capturer,
    device_of,
    naming_rows,
    plan_rows,
    set_up_fitted,
    shard_identity,
    stored_columns,
)
from pipeline.steps.job import Job
from pipeline.steps.memory import batch_rows, plan_of
from pipeline.steps.stores import FINITE
from pipeline.steps.tasks import task_of, use_threads
from pipeline.storage.arrays import ArrayWriter
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.base import Batch
from pipeline.tasks.checks import row_set


@dataclass(frozen=True)
class Store:
    """A store that is being written: at one checkpoint."""

    capturer: Capturer
    codec: Codec
    writer: ArrayWriter
    record: dict[str, Any]
    total: int
    flagged: list[int] = field(default_factory=list)

    def add(self, batch: Batch, positions: range) -> None:
        """Capture and append the rows at these positions; those that are not finite are noted."""
        captured = self.capturer.capture(batch, len(positions))
        for name, column in stored_columns(self.codec, captured).items():
            self.writer.append(name, column, total=self.total)
        self.flagged.extend(at for at, flag in zip(positions, captured.flags, strict=True) if flag != FINITE)


def run(job: Job, checkpoint: str, split: str, shard: str) -> None:
    """Write `gradients/<checkpoint>/<split>/<shard>.zarr`; several checkpoints are separated by commas.

    Arrays: codes [n, K], row_scale, norm_code (of the decoded code), norm_full (of the gradient in all P parameters),
    norm_full_error (its standard error; 0 where it is exact), loss (nats) and flag (1: not finite, excluded from
    curvature and index), each [n]; block_scale [n, b] of int8.
    """
    use_threads(job.config)
    checkpoints = checkpoint.split(",")
    positions = plan_rows(job.plan(), split, shard)
    size = min(batch_rows(job, plan_of(read_manifest(job.layout.projection(each)))) for each in checkpoints)
    with ExitStack() as stack:
        stores = [_open(job, stack, each, split, shard, len(positions)) for each in checkpoints]
        _write(job, stores, split, positions, size)
        for store in stores:
            store.record.update(flagged=store.flagged, batch_rows=size)
    for each, store in zip(checkpoints, stores, strict=True):
        if store.flagged:
            job.say(
                f"rows without a finite loss or gradient at {each}, excluded from curvature and index: "
                f"{store.flagged[:20]}"
            )


def _open(job: Job, stack: ExitStack, checkpoint: str, split: str, shard: str, total: int) -> Store:
    """A model that is set up, and the store that its gradients go to; sealed when the stack is left."""
    capturer, codec, projection = set_up_fitted(task_of(job.config, job.plan()), job.layout, job.config, checkpoint)
    identity = shard_identity(job, projection, checkpoint, split, shard)
    place = job.layout.gradients(checkpoint, split, shard)
    path, record = stack.enter_context(job.writing(place, "gradients", identity))
    record.update(engines=capturer.coverage.served, left_out=capturer.left_out)
    return Store(capturer, codec, stack.enter_context(ArrayWriter(path)), record, total)


def _write(job: Job, stores: list[Store], split: str, positions: range, size: int) -> None:
    """Capture all rows, `size` at a time; each is read once."""
    first = stores[0].capturer
    dataset = row_set(first.task, split, device_of(first.model))
    progress = job.progress(f"{split} gradients", len(positions))
    for start in range(positions.start, positions.stop, size):
        chosen = range(start, min(start + size, positions.stop))
        try:
            batch = dataset.batch(chosen)
            for store in stores:
                store.add(batch, chosen)
        except LowlandError as error:
            raise naming_rows(error, f"{split} gradients", chosen.start, chosen.stop) from error
        progress.add(len(chosen))
