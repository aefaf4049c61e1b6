"""Posterior: how likely each train row's label is wrong, by fold models, the trained one, and the other rows.

Reads given labels; never the true ones. See `pipeline.core.posterior`. Features are those at `trained`, of unit
length. Clean rows are the validation rows, each judged by the fold that did not see it and by `trained`, which saw none
of them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from pipeline.core.calibration import softmax
from pipeline.core.channel import FIRST_ACCURACY, alike
from pipeline.core.device import chosen
from pipeline.core.posterior import INPUTS, Clean, Posterior, Rows, averaged, judged
from pipeline.errors import DataError
from pipeline.shards import sample
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.folds import fold_splits
from pipeline.steps.inputs import Points, input_of, space_of
from pipeline.steps.job import Job
from pipeline.steps.memory import check
from pipeline.steps.predictions import labels_behind, predicted
from pipeline.steps.stores import open_arrays, retired_of
from pipeline.steps.tasks import derive, model_at, new_model, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import open_artefact, read_manifest
from pipeline.storage.weights import load_into
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

WIDEST = 4096
"""Numbers of an input that is taken for a point: beyond that (large images) distances say little and cost much."""


def run(job: Job) -> None:
    """Write `posterior/posterior.zarr`: surprise [N], true [N, C], flag [N] (1: not judged), channel [C, C]."""
    use_threads(job.config)
    plan, section = job.plan(), job.config.posterior
    task = task_of(job.config, plan)
    device = chosen(job.config.compute.device)
    rows, validation = row_set(task, "train", device), row_set(task, "validation", device)
    folds = open_artefact(job.layout.checkpoint("folds"), "checkpoint")
    models, factor = _fold_models(job, task, rows, folds.record["models"]), folds.record["factor"]
    parts = [kept for _, kept in fold_splits(len(validation), len(models), folds.record["seed"])]
    positions = np.setdiff1d(np.arange(len(rows)), plan.retired)
    every = _known(job, task, rows, positions, models, factor)
    clean = _clean(job, task, validation, models, factor, parts)
    finite = every.finite()
    if not finite.any():
        raise DataError(
            f"expected finite predictions of the train rows, got none in {len(rows)}; "
            "look for NaN in these rows and in the weights"
        )
    known, kept = every if finite.all() else every.at(finite), positions[finite]
    if clean is not None:
        known, clean = _with_inputs(rows, kept, validation, [row for part in parts for row in part], known, clean)
        if not alike(known.given, clean.labels, len(plan.classes)):
            job.say(
                "classes have other shares among validation rows than among given labels: all confusions count alike"
            )
    found = judged(known, clean, _landmarks(job, kept))
    job.say(f"share of labels that are likely wrong: {_share(found):.3f}")
    job.say(f"sources, with exponent and honesty: {_described(found)}")
    if found.assumed:
        job.say(
            f"all that is believed repeats the given labels: {FIRST_ACCURACY:.0%} of them are assumed to be right, and "
            "the order is worth more than the share"
        )
    if section.landmarks and known.inputs is not None and INPUTS not in found.honesty:
        job.say("inputs are not all finite, or all alike: other rows are not asked by them")
    identity = {
        "checkpoints": [read_manifest(job.layout.checkpoint(name)).digest for name in ("trained", "folds")],
        "content": plan.splits["train"].content,
        "retired": retired_of(plan, "train"),
        "posterior": section.plain(),
        "seed": job.config.seed,
    }
    with job.writing(job.layout.posterior, "posterior", identity) as (path, record):
        write_arrays(path, _whole(found, kept, len(rows)))
        record.update(likely_wrong=_share(found), assumed=found.assumed)
        record.update(exponents=found.exponents, honesty=found.honesty)


def _share(found: Posterior) -> float:
    """The expected share of wrong labels among the rows that were judged."""
    return float(1 - np.exp(-found.surprise).mean())


def _described(found: Posterior) -> str:
    """Exponent and honesty of each source; no exponent: it is not believed."""
    if not found.honesty:
        return "folds alone, as no clean row was held out, or what models say of some is not finite"
    return ", ".join(
        f"{name} {found.exponents.get(name, 0):.2f} ({honesty:.2f})" for name, honesty in found.honesty.items()
    )


def _whole(found: Posterior, kept: Array, count: int) -> dict[str, Array]:
    """The arrays of all rows; NaN where a row was not judged."""
    surprise = np.full(count, np.nan)
    true = np.full((count, found.true.shape[1]), np.nan, np.float32)
    surprise[kept], true[kept] = found.surprise, found.true
    flag = np.where(np.isfinite(surprise), FINITE, NOT_FINITE).astype(np.int8)
    return {"surprise": surprise, "true": true, "flag": flag, "channel": found.channel}


def _known(job: Job, task: Task, rows: RowSet, positions: Array, models: list[nn.Module], factor: float) -> Rows:
    """What models say of the train rows at `positions`, whether it is finite or not, and features if they are asked."""
    progress = job.progress("predicting", (len(models) + 1) * len(positions))
    where = positions.tolist()
    trained = model_at(task, job.layout, "trained", rows.device)
    _check_memory(job, task, trained, rows, where)
    said, features = predicted(task, trained, rows, where, progress.add)
    prior = averaged((predicted(task, each, rows, where, progress.add)[0] for each in models), factor)
    _, hashes = open_arrays(job.layout.hashes, "rows")
    asked = features if job.config.posterior.landmarks else None
    return Rows(prior, said, hashes.read("train_label")[positions], _unit(asked))


def _clean(
    job: Job, task: Task, rows: RowSet, models: list[nn.Module], factor: float, parts: list[list[int]]
) -> Clean | None:
    """The validation rows, each as the fold says that did not see it; None: no fold held out any, or not all finite."""
    order = [row for kept in parts for row in kept]
    if not order:
        return None
    said = [predicted(task, model, rows, kept)[0] for model, kept in zip(models, parts, strict=True)]
    trained = model_at(task, job.layout, "trained", rows.device)
    log_probabilities, features = predicted(task, trained, rows, order)
    labels = labels_behind(task, trained, rows, order, log_probabilities.shape[1])
    prior = softmax(np.concatenate(said).astype(np.float64) * factor)
    clean = Clean(prior, log_probabilities, labels, _unit(features))
    known = [part for part in (clean.prior, clean.trained, clean.features) if part is not None]
    return clean if all(np.isfinite(part).all() for part in known) else None


def _unit(features: Array | None) -> Array | None:
    """Each row at length 1, in place."""
    if features is not None:
        features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return features


def _with_inputs(
    rows: RowSet, positions: Array, validation: RowSet, order: list[int], known: Rows, clean: Clean
) -> tuple[Rows, Clean]:
    """The same with inputs, where these are points."""
    space = space_of(rows, positions)
    if space is None or space.width > WIDEST:
        return known, clean
    if not space.takes(input_of(validation, order[0])):
        return known, clean
    inputs, of_clean = Points(space, rows, positions), Points(space, validation, np.array(order))
    return replace(known, inputs=inputs), replace(clean, inputs=of_clean)


def _landmarks(job: Job, kept: Array) -> Array:
    """Positions among the judged rows, chosen by content, so that other rows that come or go leave them."""
    _, hashes = open_arrays(job.layout.hashes, "rows")
    content = hashes.read("train")[kept]
    seed = derive(job.config.seed, "landmarks")
    return np.array(sample([bytes(row) for row in content], job.config.posterior.landmarks, seed), int)


def _fold_models(job: Job, task: Task, rows: RowSet, count: int) -> list[nn.Module]:
    """The models of the folds, in eval mode."""
    folds = nn.ModuleList(new_model(task) for _ in range(count))
    load_into(folds, job.layout.checkpoint("folds"))
    return [each.eval().to(rows.device) for each in folds]


def _check_memory(job: Job, task: Task, model: nn.Module, rows: RowSet, where: list[int]) -> None:
    """Refuse features that take more than the budget, batches of them and all together.

    Raises:
        CapacityError: they do.
    """
    features = predicted(task, model, rows, where[:1])[1]
    if features is not None and job.config.posterior.landmarks:
        planned = 8 * len(where) * features.shape[1]
        check(job, f"the features of {len(where)} rows", planned, "set posterior.landmarks to 0, which needs none")
