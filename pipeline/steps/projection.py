"""Projection: what maps a gradient to K numbers at a checkpoint, and the codec's column scales; fitted once.

Fitted on train rows in the order of their content hash, so that neither their order nor their sharding matters, and
never again: appended rows are mapped as the first ones were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.core.capture.cover import Coverage
from pipeline.core.codec import fit_codec
from pipeline.core.device import chosen as chosen_device
from pipeline.core.memory import FRESH, Growing, Watch
from pipeline.core.memory import Plan as MemoryPlan
from pipeline.core.projection import FITTED, Fitter, Projection, Settings, Shapes, fitter, turned
from pipeline.provenance import digest_bytes
from pipeline.shards import sample
from pipeline.steps import memory
from pipeline.steps.capture import Capturer, device_of, dtype_of, parts_of, pieces, set_up
from pipeline.steps.codes import FINITE
from pipeline.steps.job import Job
from pipeline.steps.tasks import derive, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.checks import row_set

FEWER = "lower projection.selected (as low as projection.dimension, there is no such step) or projection.sample_rows"


def run(job: Job, checkpoint: str) -> None:
    """Write `projection/<checkpoint>.zarr`.

    Raises:
        CapacityError: the model, the fit or the captures that follow are planned to exceed `compute.memory_mb`.
    """
    use_threads(job.config)
    config, section = job.config, job.config.projection
    task = task_of(config, job.plan())
    seed = derive(config.seed, "projection")
    _, arrays = open_arrays(job.layout.hashes, "rows")
    hashes = {split: [bytes(row) for row in arrays.read(split)] for split in ("train", "validation")}
    own, others = _samples(hashes["train"], section.method, section.sample_rows, config.seed)
    clean = sample(hashes["validation"], section.sample_rows, config.seed)
    fitted_on = {"train": own, "validation": clean}
    capturer, plan, chosen = _planned(job, task, checkpoint, seed, fitted_on, others)
    batches = _batches(others, memory.batch_rows(job, plan))
    codes = _sample_codes(job, capturer, batches)
    if config.gradients.codec != "float32":  # rounding is what makes the coordinates matter
        projection, codes = _turned(capturer, codes)
        capturer = replace(capturer, projection=projection)
    codec = fit_codec(config.gradients.codec, codes)
    for name in capturer.left_out:
        job.say(f"left out: {name} (frozen or excluded)")
    identity = {
        "checkpoint": read_manifest(job.layout.checkpoint(checkpoint)).digest,
        "projection": {"method": section.method, "dimension": capturer.projection.dimension},
        "seed": seed,
        "gradients": config.gradients.plain(),
    }
    state = {f"state_{name}": values for name, values in capturer.projection.state().items()}
    with job.writing(job.layout.projection(checkpoint), "projection", identity) as (path, record):
        write_arrays(path, {**codec.columns(), **state})
        record["parameters"] = int(sum(np.prod(shape) for shape in capturer.projection.shapes.values()))
        record["engines"] = capturer.coverage.served
        record["left_out"] = capturer.left_out
        record["memory"] = memory.record_of(plan)
        record["fitted"] = {**_named(hashes, fitted_on if section.method in FITTED else {}), **chosen}
        record["codec_fitted"] = _named(hashes, {"train": others})


def _named(hashes: dict[str, list[bytes]], positions: dict[str, list[int]]) -> dict[str, Any]:
    """Some rows by split: how many, and a digest of their content hashes in ascending order, wherever they stand."""
    return {
        split: {"rows": len(own), "content": digest_bytes(*sorted(hashes[split][position] for position in own))}
        for split, own in positions.items()
    }


def _planned(
    job: Job, task: Task, checkpoint: str, seed: int, own: dict[str, list[int]], others: list[int]
) -> tuple[Capturer, MemoryPlan, dict[str, Any]]:
    """Model and fitted projection, what later jobs will hold with them, and what the fit settled; all of it watched."""
    section, device = job.config.projection, chosen_device(job.config.compute.device)
    rows = {split: row_set(task, split, device) for split in own}  # before the watch: rows are the task's own affair
    samples = [(rows[split], positions) for split, positions in own.items()]
    chosen: dict[str, Any] = {}

    def fit(model: nn.Module, coverage: Coverage, shapes: Shapes) -> Projection:
        setting_up.afford(0)
        cut = _Cut(task, coverage, parts_of(task, job.config))
        settings = Settings(*(None if n == "auto" else n for n in (section.basis, section.selected, section.groups)))
        work = fitter(section.method, shapes, section.dimension, seed, settings)
        projection = _fit(job, work, samples, dtype_of(model), cut, watch)
        chosen.update(work.chosen)
        if section.method not in FITTED:  # then later jobs make it as it was made here
            setting_up.afford(0)
        return projection

    with Watch() as watch:
        setting_up = memory.SetUp(job, watch)
        capturer = set_up(task, job.layout, job.config, checkpoint, fit, setting_up.afford)
        stored = sum(values.nbytes for values in capturer.projection.state().values())
        setup = setting_up.peak + int(2 * FRESH * stored)  # later jobs read the state, and then put it where it belongs
        looked_at = [(rows["train"], sorted({*own["train"], *others})), (rows["validation"], own["validation"])]
        return capturer, memory.measured(job, capturer, watch, setup, looked_at), chosen


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


@dataclass(frozen=True)
class _Cut:
    """What captures a batch, part by part where parts are kept apart: to a fit, each part is a row."""

    task: Task
    coverage: Coverage
    parts: int

    def feed(self, work: Fitter, batch: Batch, rows: int, dtype: torch.dtype, device: torch.device) -> None:
        """Feed the gradients of `rows` rows to a fit."""
        for piece in pieces(self.task, batch, self.parts):
            with work.batch(rows, dtype, device) as sink:
                self.coverage.engine.capture(piece, sink)


def _fit(
    job: Job, work: Fitter, samples: list[memory.Sample], dtype: torch.dtype, cut: _Cut, watch: Watch
) -> Projection:
    """The projection, by as many passes over the sample as it wants, in batches that grow within the budget.

    The sample is train rows and validation rows: the curvature at flat is made of the latter, and what they need of
    the gradients is kept.
    """
    growing = Growing(watch, memory.budget_bytes(job), memory.most_rows(job))
    total = sum(len(positions) for _, positions in samples)
    while not work.done:
        watch.restart()
        if ending := work.end_bytes(total * cut.parts, dtype):
            memory.check(job, f"the second step of a projection, fitted on {total} rows,", watch.peak + ending, FEWER)
        progress = job.progress("fitting the projection", total)
        for rows, positions in samples:
            for chosen in growing.cut(positions):
                cut.feed(work, rows.batch(chosen), len(chosen), dtype, rows.device)
                if len(chosen) == 1:
                    memory.check(job, "one row at a time to fit the projection", watch.peak)
                progress.add(len(chosen))
        work.end_pass()
    return work.projection()


def _turned(capturer: Capturer, codes: np.ndarray) -> tuple[Projection, np.ndarray]:
    """One turn for all parts, and the codes [n, parts x K] after it."""
    projection, each = turned(capturer.projection, codes.reshape(-1, capturer.projection.dimension))
    return projection, each.reshape(codes.shape)


def _sample_codes(job: Job, capturer: Capturer, batches: list[list[int]]) -> np.ndarray:
    rows = row_set(capturer.task, "train", device_of(capturer.model))
    progress = job.progress("fitting the codec", sum(map(len, batches)))
    codes = []
    for chosen in batches:
        captured = capturer.capture(rows.batch(chosen), len(chosen))
        codes.append(captured.codes[captured.flags == FINITE])
        progress.add(len(chosen))
    return np.concatenate(codes)
