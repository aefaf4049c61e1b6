"""Gradients: the codes of one shard of one split at one checkpoint, with losses, norms and flags."""

from __future__ import annotations

import numpy as np

from pipeline.core.codec import Codec
from pipeline.errors import LowlandError
from pipeline.steps.capture import Capturer, naming_rows, plan_rows, set_up_fitted, shard_identity
from pipeline.steps.job import Job
from pipeline.steps.stores import FINITE
from pipeline.steps.tasks import task_of, use_threads
from pipeline.storage.arrays import ArrayWriter
from pipeline.tasks.checks import row_set


def run(job: Job, checkpoint: str, split: str, shard: str) -> None:
    """Write `gradients/<checkpoint>/<split>/<shard>.zarr`.

    Arrays: codes [n, K], row_scale, norm_code (of the decoded code), norm_full (of the gradient in all P parameters,
    exact), loss (nats) and flag (1: not finite, excluded from curvature and index), each [n].
    """
    use_threads(job.config)
    plan = job.plan()
    positions = plan_rows(plan, split, shard)
    capturer, codec, projection = set_up_fitted(task_of(job.config, plan), job.layout, job.config, checkpoint)
    identity = shard_identity(job, projection, checkpoint, split, shard) | {"norm_full": "exact"}
    with job.writing(job.layout.gradients(checkpoint, split, shard), "gradients", identity) as (path, record):
        with ArrayWriter(path) as writer:
            flagged = _write(job, writer, capturer, codec, split, positions)
        record["flagged"] = flagged
        record["engines"] = capturer.coverage.served
        record["left_out"] = capturer.left_out
    if flagged:
        job.say(f"rows without a finite loss or gradient, excluded from curvature and index: {flagged[:20]}")


def _write(job: Job, writer: ArrayWriter, capturer: Capturer, codec: Codec, split: str, positions: range) -> list[int]:
    """Capture all rows; returns the positions of those that are not finite."""
    dataset = row_set(capturer.task, split)
    progress = job.progress(f"{split} gradients", len(positions))
    flagged: list[int] = []
    for start in range(positions.start, positions.stop, job.config.gradients.batch_rows):
        chosen = range(start, min(start + job.config.gradients.batch_rows, positions.stop))
        try:
            captured = capturer.capture(dataset.batch(chosen), len(chosen))
        except LowlandError as error:
            raise naming_rows(error, f"{split} gradients", chosen.start, chosen.stop) from error
        values, row_scale = codec.encode(captured.codes)
        decoded = codec.decode(values, row_scale).astype(np.float64)
        columns = {
            "codes": values,
            "row_scale": row_scale,
            "norm_code": np.linalg.norm(decoded, axis=1),
            "norm_full": np.sqrt(captured.squared_norms),
            "loss": captured.losses,
            "flag": captured.flags,
        }
        for name, column in columns.items():
            writer.append(name, column, total=len(positions))
        flagged += [position for position, flag in zip(chosen, captured.flags, strict=True) if flag != FINITE]
        progress.add(len(chosen))
    return flagged
