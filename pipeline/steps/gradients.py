"""Gradients: the codes of one shard of one split at one checkpoint, with losses, norms and flags."""

from __future__ import annotations

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
from pipeline.tasks.checks import row_set


def run(job: Job, checkpoint: str, split: str, shard: str) -> None:
    """Write `gradients/<checkpoint>/<split>/<shard>.zarr`.

    Arrays: codes [n, K], row_scale, norm_code (of the decoded code), norm_full (of the gradient in all P parameters),
    norm_full_error (its standard error; 0 where it is exact), loss (nats) and flag (1: not finite, excluded from
    curvature and index), each [n]; block_scale [n, b] of int8.
    """
    use_threads(job.config)
    plan = job.plan()
    positions = plan_rows(plan, split, shard)
    size = batch_rows(job, plan_of(read_manifest(job.layout.projection(checkpoint))))
    capturer, codec, projection = set_up_fitted(task_of(job.config, plan), job.layout, job.config, checkpoint)
    identity = shard_identity(job, projection, checkpoint, split, shard)
    with job.writing(job.layout.gradients(checkpoint, split, shard), "gradients", identity) as (path, record):
        with ArrayWriter(path) as writer:
            flagged = _write(job, writer, capturer, codec, split, positions, size)
        record["flagged"] = flagged
        record["batch_rows"] = size
        record["engines"] = capturer.coverage.served
        record["left_out"] = capturer.left_out
    if flagged:
        job.say(f"rows without a finite loss or gradient, excluded from curvature and index: {flagged[:20]}")


def _write(
    job: Job, writer: ArrayWriter, capturer: Capturer, codec: Codec, split: str, positions: range, size: int
) -> list[int]:
    """Capture all rows, `size` at a time; returns the positions of those that are not finite."""
    dataset = row_set(capturer.task, split, device_of(capturer.model))
    progress = job.progress(f"{split} gradients", len(positions))
    flagged: list[int] = []
    for start in range(positions.start, positions.stop, size):
        chosen = range(start, min(start + size, positions.stop))
        try:
            captured = capturer.capture(dataset.batch(chosen), len(chosen))
        except LowlandError as error:
            raise naming_rows(error, f"{split} gradients", chosen.start, chosen.stop) from error
        for name, column in stored_columns(codec, captured).items():
            writer.append(name, column, total=len(positions))
        flagged += [position for position, flag in zip(chosen, captured.flags, strict=True) if flag != FINITE]
        progress.add(len(chosen))
    return flagged
