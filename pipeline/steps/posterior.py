"""Posterior: how likely each train row's label is wrong, from fold models, the trained one, and the rows' neighbours.

Reads given labels; never the true ones. See `pipeline.core.posterior`. Features are those at `trained`, where all train
rows took part, and at `flat`, each of unit length. Clean rows are the validation rows, each judged by the fold that
did not see it and by `trained`, which saw none of them.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.core.device import chosen
from pipeline.core.posterior import (
    Clean,
    Posterior,
    Rows,
    averaged,
    honesty_of_folds,
    judged,
    search_bytes,
    softmax,
)
from pipeline.core.trust import REPEATING
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.folds import fold_splits
from pipeline.steps.inputs import vectors
from pipeline.steps.job import Job, Progress
from pipeline.steps.memory import MB, check
from pipeline.steps.predictions import labels_behind, predicted
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
    folds = open_artefact(job.layout.checkpoint("folds"), "checkpoint")
    models, factor = _fold_models(job, task, rows, folds.record["models"]), folds.record["factor"]
    positions = np.setdiff1d(np.arange(len(rows)), plan.retired)
    every = _known(job, task, rows, positions, models, factor)
    finite = every.finite()
    clean = _clean(job, task, models, factor, folds.record["seed"])
    if clean is not None and honesty_of_folds(every.prior[finite], every.given[finite], clean) < REPEATING:
        every, clean = _by_inputs(job, rows, positions, every, clean)
    found = judged(every if finite.all() else every.at(finite), clean, section.neighbours, section.symmetric_rows)
    kept, features = positions[finite], every.features
    alone = "without neighbours, " if features is None else ""
    job.say(f"{alone}share of labels that are likely wrong: {_share(found):.3f}")
    if clean is not None:
        job.say(
            f"the model is {found.trust.honesty:.2f} as wrong on its train rows as on clean ones: exponents of "
            f"neighbours {found.trust.neighbours:.2f}, trained {found.trust.trained:.2f}, folds {found.trust.folds:.2f}"
        )
    identity = {
        "checkpoints": [read_manifest(job.layout.checkpoint(name)).digest for name in ("trained", "flat", "folds")],
        "content": plan.splits["train"].content,
        "retired": retired_of(plan, "train"),
        "posterior": section.plain(),
    }
    with job.writing(job.layout.posterior, "posterior", identity) as (path, record):
        write_arrays(path, _whole(found, kept, len(rows)))
        record["features"] = 0 if features is None else features.shape[1]
        record.update(likely_wrong=_share(found), trust=asdict(found.trust))


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


def _known(job: Job, task: Task, rows: RowSet, positions: Array, models: list[nn.Module], factor: float) -> Rows:
    """What is known of the train rows at `positions`, where it is finite or not."""
    progress = job.progress("predicting", (len(models) + len(FEATURES_AT)) * len(positions))
    where = positions.tolist()
    trained, features = _at_checkpoints(job, task, rows, where, progress)
    said = (predicted(task, each, rows, where, progress.add)[0] for each in models)
    _, hashes = open_arrays(job.layout.hashes, "rows")
    return Rows(averaged(said, factor), hashes.read("train_label")[positions], features, trained)


def _clean(job: Job, task: Task, models: list[nn.Module], factor: float, seed: int) -> Clean | None:
    """The validation rows, each as the fold says that did not see it; None: no fold held out any, or not all finite."""
    rows = row_set(task, "validation", chosen(job.config.compute.device))
    parts = [kept for _, kept in fold_splits(len(rows), len(models), seed)]
    order = [row for kept in parts for row in kept]
    if not order:
        return None
    said = [predicted(task, model, rows, kept)[0] for model, kept in zip(models, parts, strict=True)]
    trained = model_at(task, job.layout, "trained", rows.device)
    log_probabilities, features = predicted(task, trained, rows, order)
    labels = labels_behind(task, trained, rows, order, log_probabilities.shape[1])
    clean = Clean(softmax(np.concatenate(said).astype(np.float64) * factor), log_probabilities, features, labels)
    known = [part for part in (clean.prior, clean.trained, clean.features) if part is not None]
    return clean if all(np.isfinite(part).all() for part in known) else None


def _by_inputs(job: Job, rows: RowSet, positions: Array, every: Rows, clean: Clean) -> tuple[Rows, Clean]:
    """The same with neighbours among the inputs, where these are vectors and fit; features repeat the labels."""
    first = rows.row(int(positions[0]))
    value = first[0] if isinstance(first, (tuple, list)) else None
    if every.features is None or not isinstance(value, Tensor) or not value.is_floating_point():
        return every, clean
    if every.features.nbytes + _inputs_bytes(len(positions), value.numel()) > job.config.compute.memory_mb * MB:
        job.say("the models repeat the given labels; inputs are too large to look for neighbours among them")
        return every, clean
    found = vectors(rows, positions)
    if found is None:
        return every, clean
    job.say("the models repeat the given labels: neighbours are those of the inputs")
    return replace(every, features=found.astype(np.float32)), replace(clean, features=None)


def _inputs_bytes(rows: int, width: int) -> int:
    """What inputs hold: read in float64, a row at a time and then together; then in float32, searched."""
    return max(16 * rows * width, 4 * rows * width + search_bytes(rows, width))


def _fold_models(job: Job, task: Task, rows: RowSet, count: int) -> list[nn.Module]:
    """The models of the folds, in eval mode."""
    folds = nn.ModuleList(new_model(task) for _ in range(count))
    load_into(folds, job.layout.checkpoint("folds"))
    return [each.eval().to(rows.device) for each in folds]


def _at_checkpoints(
    job: Job, task: Task, rows: RowSet, where: list[int], progress: Progress
) -> tuple[Array, Array | None]:
    """Log probabilities at `trained` [n, C], and features [n, 2 D], each checkpoint's of unit length.

    Features are None where the model has none, or no neighbours are asked.
    """
    trained = model_at(task, job.layout, "trained", rows.device)
    first = predicted(task, trained, rows, where[:1])[1]
    if first is None or not job.config.posterior.neighbours:
        return predicted(task, trained, rows, where, progress.add)[0], None
    width = first.shape[1]
    _check_memory(job, len(where), width)
    whole = np.empty((len(where), len(FEATURES_AT) * width), np.float32)
    said = []
    for place, name in enumerate(FEATURES_AT):
        model = model_at(task, job.layout, name, rows.device)
        log_probabilities, found = predicted(task, model, rows, where, progress.add)
        assert found is not None
        found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
        whole[:, place * width : (place + 1) * width] = found
        said.append(log_probabilities)
    return said[FEATURES_AT.index("trained")], whole


def _check_memory(job: Job, rows: int, width: int) -> None:
    """Refuse features that take more than the budget: all of them, and those of a checkpoint twice.

    Raises:
        CapacityError: they do.
    """
    whole = 4 * rows * width * len(FEATURES_AT)
    planned = whole + max(whole, search_bytes(rows, width * len(FEATURES_AT)))
    check(job, f"the features of {rows} rows", planned, "set posterior.neighbours to 0, which needs none")
