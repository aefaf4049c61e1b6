"""Projection: what maps a gradient to K numbers at a checkpoint, and the codec's column scales; fitted once.

Fitted on train rows in the order of their content hash, so that neither their order nor their sharding matters, and
never again: appended rows are mapped as the first ones were.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.codec import fit_codec
from pipeline.shards import sample
from pipeline.steps.capture import Capturer, set_up
from pipeline.steps.job import Job
from pipeline.steps.stores import FINITE, open_arrays
from pipeline.steps.tasks import derive, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.checks import row_set


def run(job: Job, checkpoint: str) -> None:
    """Write `projection/<checkpoint>.zarr`."""
    use_threads(job.config)
    config, section = job.config, job.config.projection
    task = task_of(config, job.plan())
    seed = derive(config.seed, "projection")
    capturer = set_up(task, job.layout, config, checkpoint, section.method, section.dimension, seed)
    _, hashes = open_arrays(job.layout.hashes, "rows")
    positions = sample([bytes(row) for row in hashes.read("train")], section.sample_rows, config.seed)
    codec = fit_codec(config.gradients.codec, _sample_codes(job, capturer, positions))
    for name in capturer.left_out:
        job.say(f"left out: {name} (frozen or excluded)")
    identity = {
        "checkpoint": read_manifest(job.layout.checkpoint(checkpoint)).digest,
        "projection": {"method": section.method, "dimension": capturer.projection.dimension},
        "seed": seed,
        "gradients": config.gradients.plain(),
    }
    arrays = {f"state_{name}": values for name, values in capturer.projection.state().items()}
    with job.writing(job.layout.projection(checkpoint), "projection", identity) as (path, record):
        write_arrays(path, {"column_scale": codec.column_scale, **arrays})
        record["parameters"] = int(sum(np.prod(shape) for shape in capturer.projection.shapes.values()))
        record["engines"] = capturer.coverage.served
        record["left_out"] = capturer.left_out


def _sample_codes(job: Job, capturer: Capturer, positions: list[int]) -> np.ndarray:
    rows = row_set(capturer.task, "train")
    progress = job.progress("fitting the projection", len(positions))
    codes = []
    for start in range(0, len(positions), job.config.gradients.batch_rows):
        chosen = positions[start : start + job.config.gradients.batch_rows]
        captured = capturer.capture(rows.batch(chosen), len(chosen))
        codes.append(captured.codes[captured.flags == FINITE])
        progress.add(len(chosen))
    return np.concatenate(codes)
