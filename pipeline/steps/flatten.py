"""Flatten: from the trained weights to a flat minimum on the clean validation rows, with sharpness before and after."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from torch import nn

from pipeline.config import FlattenSection
from pipeline.core.device import chosen
from pipeline.core.minimum import Divergence, Progress, Settings, descend
from pipeline.core.rows import Part, mean_loss
from pipeline.core.sharpness import filter_noise_rise, sam_rise, top_eigenvalue
from pipeline.core.strength import Choice, ChoiceProgress, choose, finished
from pipeline.errors import DataError
from pipeline.shards import sample
from pipeline.steps.job import Job
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
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

RETRIES = 2
"""How often a descent that diverged is tried again at a tenth of the learning rate."""

MEASURED_ROWS = 256
"""Rows of a batch when sharpness is measured; sums are float64, so that it does not matter."""

TOLERANCE = 1e-3
"""Relative residual at which Lanczos stops."""


def run(job: Job) -> None:
    """Write `checkpoints/flat.safetensors`; its record holds history, choice and sharpness."""
    use_threads(job.config)
    task, section = task_of(job.config, job.plan()), job.config.flatten
    device = chosen(job.config.compute.device)
    rows = row_set(task, "validation", device)
    model = model_at(task, job.layout, "trained", rows.device)
    _check_finite(mean_loss(model, task.loss, rows, MEASURED_ROWS))
    model, before, choice, settings, history = _flattened(job, task, rows)
    after = _sharpness(job, task, model, rows)
    identity = {
        "trained": read_manifest(job.layout.checkpoint("trained")).digest,
        "flatten": section.plain(),
        "strength": settings.strength,
        "content": job.plan().splits["validation"].content,
    }
    with job.writing(job.layout.checkpoint("flat"), "checkpoint", identity) as (path, record):
        save_weights(path, model)
        record["history"] = history
        record["choice"] = _describe(choice, section)
        record["learning_rate"] = settings.learning_rate
        record["sharpness"] = {"trained": before, "flat": after}
    job.say(
        f"validation loss {before['loss']:.4g} at trained, {after['loss']:.4g} at flat; strength {settings.strength:g}"
    )


def _check_finite(loss: float) -> None:
    if not np.isfinite(loss):
        raise DataError(
            f"expected finite losses of the validation rows at the trained weights, got a mean of {loss}; "
            "look for NaN in these rows and in the weights"
        )


def _flattened(
    job: Job, task: Task, rows: RowSet
) -> tuple[nn.Module, dict[str, float], Choice | None, Settings, list[list[float]]]:
    """Choose and descend; again with a tenth of the learning rate, twice at most, where that went wrong.

    Wrong is a loss that diverges, or that ends above that of the trained weights on the rows held out. Returns the
    model at the minimum, its sharpness before, the choice, the settings and the history.
    """
    rate = job.config.flatten.learning_rate
    for attempt in range(RETRIES + 1):
        try:
            choice = _choose(job, task, rows, rate)
            if choice and _worsens(choice) and attempt < RETRIES:
                rate /= 10
                job.say(f"{choice.verdict}; trying again with learning rate {rate:g}")
                continue
            settings = _settings(job, choice.strength if choice else _given(job.config.flatten), rate)
            model = model_at(task, job.layout, "trained", rows.device)
            before = _sharpness(job, task, model, rows)
            return model, before, choice, settings, _descend(job, task, model, rows, settings)
        except Divergence as error:
            if attempt == RETRIES:
                raise
            rate /= 10
            job.say(f"diverged ({error}); trying again with learning rate {rate:g}")
    raise AssertionError("the last attempt returns or raises")


def _worsens(choice: Choice) -> bool:
    """Whether the chosen descent ended above the held-out loss that it began with."""
    chosen = [trial for trial in choice.trials if trial.strength == choice.strength and trial.losses]
    return any(trial.losses[-1] > trial.losses[0] for trial in chosen)


def _settings(job: Job, strength: float, learning_rate: float) -> Settings:
    return settings_of(job.config.flatten, strength, learning_rate, derive(job.config.seed, "flatten"))


def settings_of(section: FlattenSection, strength: float, learning_rate: float, seed: int) -> Settings:
    """How to descend by a section of the configuration, with what was chosen on the clean rows."""
    return Settings(
        method=section.method,
        strength=strength,
        steps=section.steps,
        learning_rate=learning_rate,
        momentum=section.momentum,
        weight_decay=section.weight_decay,
        batch_rows=section.batch_rows,
        noise_parts=section.noise_parts,
        noise_growth=section.noise_growth,
        optimizer=section.optimizer,
        seed=seed,
    )


def _given(section: FlattenSection) -> float:
    """The strength in the config, where nothing is chosen."""
    return 0.0 if section.method == "plain" or section.strength == "auto" else float(section.strength)


def _choose(job: Job, task: Task, rows: RowSet, learning_rate: float) -> Choice | None:
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

    start = partial(model_at, task, job.layout, "trained", rows.device)
    run = choose(
        start, task.loss, rows, _settings(job, candidates[0], learning_rate), candidates, folds, section.held_out
    )
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
