"""Folds: K more flat minima, each without one fold of the clean validation rows, and how far to trust their odds.

They descend as `flat` did, with the strength and learning rate that were chosen for it. On fewer rows that strength can
be too much: a fold that does not come down half as far as `flat` did, or diverges, begins again with half of it, at
last with none. Kept are all their weights, as one file, and the factor on logits that makes the loss least on the rows
that each did not see. Which these are, `fold_splits` tells again from the number of models and the seed that the record
holds.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from pipeline.core.calibration import temperature
from pipeline.core.device import chosen
from pipeline.core.holdout import splits
from pipeline.core.minimum import Divergence, Settings, descend
from pipeline.core.rows import Part, mean_loss
from pipeline.steps.flatten import MEASURED_ROWS, settings_of
from pipeline.steps.job import Job, Progress
from pipeline.steps.predictions import labels_behind, predicted
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

HALVINGS = 2
"""Of the strength, before a fold does without."""
SLACK = 0.1
"""Nats that a fold may end above `flat` in any case."""
FEWEST_A_FOLD = 2
"""With fewer rows held out there are fewer folds; with less than two folds, one model of all rows and no factor."""


def run(job: Job) -> None:
    """Write `checkpoints/folds.safetensors`: the models 0 to K - 1; the record holds the factor."""
    use_threads(job.config)
    task = task_of(job.config, job.plan())
    rows = row_set(task, "validation", chosen(job.config.compute.device))
    flat = read_manifest(job.layout.checkpoint("flat"))
    settings = settings_of(
        job.config.flatten, flat.identity["strength"], flat.record["learning_rate"], derive(job.config.seed, "flatten")
    )
    parts = fold_splits(len(rows), job.config.folds.count, settings.seed)
    losses = {name: flat.record["sharpness"][name]["loss"] for name in ("trained", "flat")}
    enough = losses["flat"] + max(SLACK, (losses["trained"] - losses["flat"]) / 2)
    models, held_out = _descended(job, task, rows, settings, parts, enough)
    identity = {
        "trained": read_manifest(job.layout.checkpoint("trained")).digest,
        "flat": flat.digest,
        "folds": job.config.folds.count,
        "content": job.plan().splits["validation"].content,
    }
    with job.writing(job.layout.checkpoint("folds"), "checkpoint", identity) as (path, record):
        save_weights(path, nn.ModuleList(models))
        record.update(models=len(models), seed=settings.seed)
        record.update(_calibrated(held_out))
    job.say(f"{len(models)} folds; logits times {record['factor']:.3g}")


def fold_splits(count: int, folds: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Positions to descend on and those held out, for each fold; one fold that holds out none where rows are few."""
    folds = min(folds, count // FEWEST_A_FOLD)
    if folds < 2:
        return [(list(range(count)), [])]
    order = splits(count, 1, 1.0, seed)[0][1]
    return [([i for n, i in enumerate(order) if n % folds != fold], order[fold::folds]) for fold in range(folds)]


def _descended(
    job: Job, task: Task, rows: RowSet, settings: Settings, parts: list[tuple[list[int], list[int]]], enough: float
) -> tuple[list[nn.Module], list[tuple[Array, Array]]]:
    """The models, and log probabilities and labels of the rows that each did not see."""
    progress = job.progress("descending", len(parts) * settings.steps, "steps")
    classes = len(job.plan().classes)
    models, held_out = [], []
    for number, (fit, kept) in enumerate(parts):
        own = replace(settings, seed=derive(settings.seed, f"fold {number}"))
        model = _fold(job, task, rows, fit, own, enough, progress)
        models.append(model)
        if kept:
            log_probabilities, _ = predicted(task, model, rows, kept)
            held_out.append((log_probabilities, labels_behind(task, model, rows, kept, classes)))
    return models, held_out


def _fold(
    job: Job, task: Task, rows: RowSet, fit: list[int], settings: Settings, enough: float, progress: Progress
) -> nn.Module:
    """A model that descended on the rows at `fit` to a mean loss of at most `enough`, or with no strength at all.

    Raises:
        Divergence: with no strength, too.
    """
    strengths = [settings.strength / 2**halvings for halvings in range(HALVINGS + 1)] if settings.strength else []
    for strength in [*strengths, 0.0]:
        model = model_at(task, job.layout, "trained", rows.device)
        try:
            for _ in descend(model, task.loss, Part(rows, fit), replace(settings, strength=strength)):
                if strength == settings.strength:  # what is done again was not planned
                    progress.add()
            loss = mean_loss(model, task.loss, Part(rows, fit), MEASURED_ROWS)
        except Divergence:
            if not strength:
                raise
            loss = math.inf
        if loss <= enough or not strength:
            return model
        failure = f"came down to {loss:.3g} nats only" if math.isfinite(loss) else "diverged"
        job.say(f"a fold {failure} with strength {strength:g}: again with less")
    raise AssertionError("the last strength returns or raises")


def _calibrated(held_out: list[tuple[Array, Array]]) -> dict[str, float]:
    """The factor, and the held-out loss before and after."""
    if not held_out:
        return {"factor": 1.0}
    log_probabilities, labels = (np.concatenate(parts) for parts in zip(*held_out, strict=True))
    return {"factor": temperature(log_probabilities, labels)}
