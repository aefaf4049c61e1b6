"""Flatten: from the trained weights to a flat minimum on the clean validation rows, with sharpness before and after."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import nn

from pipeline.config import FlattenSection
from pipeline.core.minimum import Progress, Settings, descend
from pipeline.core.rows import Part, mean_loss
from pipeline.core.sharpness import filter_noise_rise, sam_rise, top_eigenvalue
from pipeline.core.strength import Choice, ChoiceProgress, choose, finished
from pipeline.errors import DataError
from pipeline.shards import sample
from pipeline.steps.job import Job
from pipeline.steps.stores import open_arrays
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

CANDIDATES = {
    "plain": [0.0],
    "sam": [0.0, 0.05, 0.1, 0.2, 0.5],
    "asam": [0.0, 0.5, 1.0, 2.0, 5.0],
    "lpf": [0.0, 0.01, 0.03, 0.05],
}
"""Strengths that `auto` tries where the config names none."""

MEASURED_ROWS = 256
"""Rows of a batch when sharpness is measured; sums are float64, so that it does not matter."""

TOLERANCE = 1e-3
"""Relative residual at which Lanczos stops."""


def run(job: Job) -> None:
    """Write `checkpoints/flat.safetensors`; its record holds history, choice and sharpness."""
    use_threads(job.config)
    task, section = task_of(job.config, job.plan()), job.config.flatten
    rows = row_set(task, "validation")
    model = model_at(task, job.layout, "trained")
    _check_finite(mean_loss(model, task.loss, rows, MEASURED_ROWS))
    choice = _choose(job, task, rows)
    strength = choice.strength if choice else _given(section)
    before = _sharpness(job, task, model, rows)
    history = _descend(job, task, model, rows, _settings(job, strength))
    after = _sharpness(job, task, model, rows)
    identity = {
        "trained": read_manifest(job.layout.checkpoint("trained")).digest,
        "flatten": section.plain(),
        "strength": strength,
        "content": job.plan().splits["validation"].content,
    }
    with job.writing(job.layout.checkpoint("flat"), "checkpoint", identity) as (path, record):
        save_weights(path, model)
        record["history"] = history
        record["choice"] = _describe(choice, section)
        record["sharpness"] = {"trained": before, "flat": after}
    job.say(f"validation loss {before['loss']:.4g} at trained, {after['loss']:.4g} at flat; strength {strength:g}")


def _check_finite(loss: float) -> None:
    if not np.isfinite(loss):
        raise DataError(
            f"expected finite losses of the validation rows at the trained weights, got a mean of {loss}; "
            "look for NaN in these rows and in the weights"
        )


def _settings(job: Job, strength: float) -> Settings:
    section = job.config.flatten
    return Settings(
        method=section.method,
        strength=strength,
        steps=section.steps,
        learning_rate=section.learning_rate,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        batch_rows=section.batch_rows,
        noise_parts=section.noise_parts,
        noise_growth=section.noise_growth,
        optimizer=section.optimizer,
        seed=derive(job.config.seed, "flatten"),
    )


def _given(section: FlattenSection) -> float:
    """The strength in the config, where nothing is chosen."""
    return 0.0 if section.method == "plain" or section.strength == "auto" else float(section.strength)


def _choose(job: Job, task: Task, rows: RowSet) -> Choice | None:
    """Choose the strength on internal splits, or only watch convergence on one; None where neither is wanted."""
    section = job.config.flatten
    auto = section.strength == "auto" and section.method != "plain"
    if not auto and not section.watch:
        return None
    candidates = (section.candidates or CANDIDATES[section.method]) if auto else [_given(section)]
    folds = section.folds if auto else 1
    progress = job.progress("choosing the strength", len(candidates) * folds * section.steps, "steps")

    def report(_: ChoiceProgress) -> None:
        progress.add()

    start = partial(model_at, task, job.layout, "trained")
    run = choose(start, task.loss, rows, _settings(job, candidates[0]), candidates, folds, section.held_out)
    choice = finished(run, report)
    job.say(f"strength {choice.strength:g}: {choice.reason}; {choice.verdict}")
    return choice


def _descend(job: Job, task: Task, model: nn.Module, rows: RowSet, settings: Settings) -> list[list[float]]:
    """Move the model; returns (step, batch loss) of at most some 200 steps."""
    progress = job.progress("flattening", settings.steps, "steps")
    kept = max(1, settings.steps // 200)
    history = []
    for point in descend(model, task.loss, rows, settings):
        progress.add()
        if point.step % kept == 0:
            history.append(_point(point))
    return history


def _point(point: Progress) -> list[float]:
    return [float(point.step), point.loss]


def _sharpness(job: Job, task: Task, model: nn.Module, rows: RowSet) -> dict[str, float]:
    """Loss and sharpness of the model on validation rows, chosen by content where they are many."""
    section, seed, batch_rows = job.config.sharpness, derive(job.config.seed, "sharpness"), MEASURED_ROWS
    _, hashes = open_arrays(job.layout.hashes, "rows")
    chosen = Part(rows, sample([bytes(row) for row in hashes.read("validation")], section.rows, job.config.seed))
    noise = filter_noise_rise(model, task.loss, chosen, section.noise, section.draws, seed, batch_rows)
    top = top_eigenvalue(model, task.loss, chosen, section.iterations, TOLERANCE, seed, batch_rows)
    return {
        "loss": mean_loss(model, task.loss, rows, batch_rows),
        "sam_rise": sam_rise(model, task.loss, chosen, section.radius, batch_rows),
        "noise_rise": noise.mean,
        "noise_error": noise.standard_error,
        "eigenvalue": top.value,
        "eigenvalue_error": top.residual,
        "rows": len(chosen),
    }


def _describe(choice: Choice | None, section: FlattenSection) -> dict[str, Any]:
    """The choice as plain values, for the record."""
    if choice is None:
        return {"strength": _given(section), "reason": "given", "verdict": "not watched", "trials": []}
    trials = [
        {
            "strength": trial.strength,
            "curve": [list(point) for point in zip(trial.steps, trial.losses, strict=True)],
            "failure": trial.failure,
        }
        for trial in choice.trials
    ]
    return {"strength": choice.strength, "reason": choice.reason, "verdict": choice.verdict, "trials": trials}
