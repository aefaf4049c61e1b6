"""Projection: what maps a gradient to K numbers at a checkpoint, and the codec's column scales; fitted once.

Fitted on train rows in the order of their content hash, so that neither their order nor their sharding matters, and
never again: appended rows are mapped as the first ones were.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipeline.core.capture.cover import Coverage
from pipeline.core.codec import fit_codec
from pipeline.core.projection import FITTED, Fitter, Projection, Settings, Shapes, fitter
from pipeline.shards import sample
from pipeline.steps.capture import Capturer, dtype_of, set_up
from pipeline.steps.job import Job
from pipeline.steps.stores import FINITE, open_arrays
from pipeline.steps.tasks import derive, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set


def run(job: Job, checkpoint: str) -> None:
    """Write `projection/<checkpoint>.zarr`."""
    use_threads(job.config)
    config, section = job.config, job.config.projection
    task = task_of(config, job.plan())
    seed = derive(config.seed, "projection")
    _, hashes = open_arrays(job.layout.hashes, "rows")
    rows = [bytes(row) for row in hashes.read("train")]
    samples = _samples(rows, section.method, section.sample_rows, config.seed)
    own, others = (_batches(positions, config.gradients.batch_rows) for positions in samples)

    def fit(model: nn.Module, coverage: Coverage, shapes: Shapes) -> Projection:
        settings = Settings(section.basis, None if section.selected == "auto" else section.selected)
        work = fitter(section.method, shapes, section.dimension, seed, settings)
        return _fit(job, work, task, own, dtype_of(model), coverage)

    capturer = set_up(task, job.layout, config, checkpoint, fit)
    codec = fit_codec(config.gradients.codec, _sample_codes(job, capturer, others))
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


def _samples(hashes: list[bytes], method: str, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the rows that fit the projection, and of those that fit the codec.

    A fitted projection sees at most half of the rows, and the codec others than it saw: on its own rows the last of
    more principal components than rows look empty, and int8 with scales from them kept a recall of .36 instead of .96.
    """
    if method not in FITTED:
        rows = sample(hashes, count, seed)
        return rows, rows
    own = sample(hashes, min(count, (len(hashes) + 1) // 2), seed)
    both = sample(hashes, len(own) + count, seed)
    return own, sorted(set(both).difference(own)) or own


def _batches(positions: list[int], size: int) -> list[list[int]]:
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _fit(
    job: Job, work: Fitter, task: Task, batches: list[list[int]], dtype: torch.dtype, coverage: Coverage
) -> Projection:
    """The projection, by as many passes over the sample as it wants."""
    rows = row_set(task, "train")
    while not work.done:
        progress = job.progress("fitting the projection", sum(map(len, batches)))
        for chosen in batches:
            with work.batch(len(chosen), dtype) as sink:
                coverage.engine.capture(rows.batch(chosen), sink)
            progress.add(len(chosen))
        work.end_pass()
    return work.projection()


def _sample_codes(job: Job, capturer: Capturer, batches: list[list[int]]) -> np.ndarray:
    rows = row_set(capturer.task, "train")
    progress = job.progress("fitting the codec", sum(map(len, batches)))
    codes = []
    for chosen in batches:
        captured = capturer.capture(rows.batch(chosen), len(chosen))
        codes.append(captured.codes[captured.flags == FINITE])
        progress.add(len(chosen))
    return np.concatenate(codes)
