"""Posterior: how likely each train row's label is wrong, from the fold models and the rows' neighbours.

Reads given labels; never the true ones. See `pipeline.core.posterior`. Features are those at `trained`, where all train
rows took part, and at `flat`, each of unit length.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from pipeline.core.device import chosen
from pipeline.core.posterior import Posterior, averaged, judged, search_bytes
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.job import Job, Progress
from pipeline.steps.memory import check
from pipeline.steps.predictions import predicted
from pipeline.steps.stores import open_arrays, retired_of
from pipeline.steps.tasks import model_at, new_model, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import open_artefact, read_manifest
from pipeline.storage.weights import load_into
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

FEATURES_AT = ("trained", "flat")


def run(job: Job) -> None:
    """Write `posterior/posterior.zarr`: surprise [N], true [N, C], flag [N] (1: not judged), channel [C, C]."""
    use_threads(job.config)
    plan, section = job.plan(), job.config.posterior
    task = task_of(job.config, plan)
    rows = row_set(task, "train", chosen(job.config.compute.device))
    _, hashes = open_arrays(job.layout.hashes, "rows")
    given = hashes.read("train_label")
    folds = open_artefact(job.layout.checkpoint("folds"), "checkpoint")
    positions = np.setdiff1d(np.arange(len(rows)), plan.retired)
    prior, features = _predictions(job, task, rows, positions, folds.record["models"], folds.record["factor"])
    finite = np.isfinite(prior).all(1) & (features is None or np.isfinite(features).all(1))
    kept = positions[finite]
    found = judged(
        prior[finite],
        given[kept],
        features if features is None or finite.all() else features[finite],
        section.neighbours,
        section.symmetric_rows,
    )
    alone = "without neighbours, " if features is None else ""
    job.say(f"{alone}share of labels that are likely wrong: {_share(found):.3f}")
    identity = {
        "checkpoints": [read_manifest(job.layout.checkpoint(name)).digest for name in ("trained", "flat", "folds")],
        "content": plan.splits["train"].content,
        "retired": retired_of(plan, "train"),
        "posterior": section.plain(),
    }
    with job.writing(job.layout.posterior, "posterior", identity) as (path, record):
        write_arrays(path, _whole(found, kept, len(rows)))
        record["features"] = 0 if features is None else features.shape[1]
        record["likely_wrong"] = _share(found)


def _share(found: Posterior) -> float:
    """The expected share of wrong labels among the rows that were judged."""
    return float(1 - np.exp(-found.surprise).mean())


def _whole(found: Posterior, kept: Array, count: int) -> dict[str, Array]:
    """The arrays of all rows; NaN where a row was not judged."""
    surprise = np.full(count, np.nan)
    true = np.full((count, found.true.shape[1]), np.nan, np.float32)
    surprise[kept], true[kept] = found.surprise, found.true
    flag = np.where(np.isfinite(surprise), FINITE, NOT_FINITE).astype(np.int8)
    return {"surprise": surprise, "true": true, "flag": flag, "channel": found.channel}


def _predictions(
    job: Job, task: Task, rows: RowSet, positions: Array, models: int, factor: float
) -> tuple[Array, Array | None]:
    """Calibrated probabilities [n, C] and features [n, D] of the rows at `positions`."""
    progress = job.progress("predicting", (models + len(FEATURES_AT)) * len(positions))
    where = positions.tolist()
    features = _features(job, task, rows, where, progress) if job.config.posterior.neighbours else None
    folds = nn.ModuleList(new_model(task) for _ in range(models))
    load_into(folds, job.layout.checkpoint("folds"))
    said = (predicted(task, each.eval().to(rows.device), rows, where, progress.add)[0] for each in folds)
    return averaged(said, factor), features


def _features(job: Job, task: Task, rows: RowSet, where: list[int], progress: Progress) -> Array | None:
    """The features of rows, [n, 2 D], those of each checkpoint of unit length; None where the model has none."""
    whole: Array | None = None
    for place, name in enumerate(FEATURES_AT):
        model = model_at(task, job.layout, name, rows.device)
        first = predicted(task, model, rows, where[:1])[1]
        if first is None:
            return None
        width = first.shape[1]
        if whole is None:
            _check_memory(job, len(where), width)
            whole = np.empty((len(where), len(FEATURES_AT) * width), np.float32)
        found = predicted(task, model, rows, where, progress.add)[1]
        if found is None:
            return None
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        whole[:, place * width : (place + 1) * width] = found
    return whole


def _check_memory(job: Job, rows: int, width: int) -> None:
    """Refuse features that take more than the budget: all of them, and those of a checkpoint twice.

    Raises:
        CapacityError: they do.
    """
    whole = 4 * rows * width * len(FEATURES_AT)
    planned = whole + max(whole, search_bytes(rows, width * len(FEATURES_AT)))
    check(job, f"the features of {rows} rows", planned, "set posterior.neighbours to 0, which needs none")
