"""Memorisation of every train row and influence of every pair, from models on random subsets (Feldman and Zhang 2020).

`evaluation/memorisation.parquet` has a row a train row; `evaluation/influence.zarr` the influence of every pair, [Q,
N], and `evaluation/pairs.parquet` the pairs whose influence is far from zero.
Letters: N train rows, Q queries, t models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.agreement import auc
from pipeline.core.memorisation import Estimate, influence, memorisation
from pipeline.methods import METHODS, columns_of
from pipeline.steps.job import Job
from pipeline.steps.retrained import Retrained, open_retrained
from pipeline.steps.tables import write_evaluation
from pipeline.steps.tasks import task_of
from pipeline.steps.titles import named
from pipeline.storage.arrays import ArrayWriter
from pipeline.storage.tables import read_table, write_table

Array = np.ndarray[Any, Any]

QUERIES = 256
"""Queries whose influence is computed together."""
STRONG, ERRORS = 0.15, 3
"""A pair is listed from this influence on (their threshold), if it is so many standard errors from zero."""
LISTED = 20
"""Pairs listed a train row, strongest first."""


def run(job: Job) -> None:
    """Write the tables, `evaluation/memorised.parquet` (the summary) last but for the rule's output."""
    plan = job.plan()
    retrained = open_retrained(job.layout, plan, job.config, "most")
    kept = retrained.read("kept").astype(bool)
    found = memorisation(kept, retrained.correct("train"))
    identity = {"members": retrained.digests()}
    _write_pairs(job, retrained, kept, found, identity)
    wrong = _wrong(job)
    write_evaluation(
        job, "memorised", _summary(job, found, wrong, len(kept)), identity, "memorisation of the train rows"
    )
    columns = {
        "row": np.arange(len(found.value)),
        "memorisation": found.value,
        "error": found.error,
        "given": read_table(job.layout.scores, ["given"])["given"],
        "correct_with": _mean(retrained.correct("train"), kept),
        "correct_without": _mean(retrained.correct("train"), ~kept),
    }
    with job.writing(job.layout.evaluation("memorisation"), "memorisation", identity) as (path, _):
        write_table(path, columns, {"memorisation": "P[right | trained on] - P[right | not]; error: standard error"})


def _mean(correct: Array, mask: Array) -> Array:
    """Share of the models within the mask that are right on each row, [N]; NaN over none."""
    count = mask.sum(0)
    return np.divide((correct * mask).sum(0), count, out=np.full(len(count), np.nan), where=count > 0)


def _write_pairs(job: Job, retrained: Retrained, kept: Array, found: Estimate, identity: dict[str, Any]) -> None:
    """The influence of all pairs, and a list of the strong ones."""
    correct, strong = retrained.correct("query"), []
    with job.writing(job.layout.pairs, "pairs", identity) as (path, _), ArrayWriter(path) as writer:
        for start in range(0, correct.shape[1], QUERIES):
            part = influence(kept, correct[:, start : start + QUERIES])
            writer.append("influence", part.value.astype(np.float32), total=correct.shape[1])
            strong.append(_strong(part, start))
    table = np.concatenate(strong) if strong else np.zeros((0, 4))
    table = _listed(table[np.lexsort((-table[:, 2], -np.nan_to_num(found.value)[table[:, 0].astype(int)]))])
    columns = {"row": table[:, 0].astype(int), "query": table[:, 1].astype(int), "influence": table[:, 2],
               "error": table[:, 3], "memorisation": found.value[table[:, 0].astype(int)]}  # fmt: skip
    with job.writing(job.layout.evaluation("pairs"), "pairs", identity) as (path, _):
        write_table(path, columns, {"influence": "on being right about the query; positive: the row helped"})


def _strong(part: Estimate, first: int) -> Array:
    """Strong pairs: train row, query, influence, error, [p, 4]."""
    queries, rows = np.nonzero(
        np.nan_to_num(part.value) >= np.maximum(STRONG, ERRORS * np.nan_to_num(part.error, nan=np.inf))
    )
    return np.column_stack([rows, queries + first, part.value[queries, rows], part.error[queries, rows]])


def _listed(table: Array) -> Array:
    """At most `LISTED` pairs a train row; rows of one train row stand together, strongest first."""
    rows = table[:, 0]
    starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]]) if len(rows) else np.zeros(0, int)
    place = np.arange(len(rows)) - np.repeat(starts, np.diff(np.r_[starts, len(rows)]))
    return table[place < LISTED]


def _wrong(job: Job) -> Array | None:
    """Which given labels are wrong, [N]; None where the truth is not known."""
    task = task_of(job.config, job.plan())
    if task.true_labels is None or task.labels is None:
        return None
    truth = np.asarray(task.true_labels)
    return (truth != np.asarray(task.labels)) & (truth >= 0)


def _summary(job: Job, found: Estimate, wrong: Array | None, models: int) -> list[dict[str, Any]]:
    """How memorisation is distributed, how sure it is, and how it ranks wrong labels beside the other scores."""
    known = np.isfinite(found.value)
    threshold = job.config.retrain.memorised_threshold
    rows = [
        _figure("mean memorisation", found.value[known].mean(), models),
        _figure(f"share of rows with at least {threshold}", (found.value[known] >= threshold).mean(), models),
        _figure("mean standard error", found.error[known].mean(), models),
    ]
    if wrong is None or not wrong[known].any() or wrong[known].all():
        return rows
    rows.append(_figure("mean memorisation of truly wrong labels", found.value[known & wrong].mean(), models))
    rows.append(_figure("mean memorisation of right labels", found.value[known & ~wrong].mean(), models))
    rows.append(_figure("AUC of wrong labels by memorisation", auc(found.value[known], wrong[known]), models))
    columns = columns_of(job.config.scores.estimators)
    table = read_table(job.layout.scores, columns)
    for column in columns:
        method = METHODS[column]
        title, checkpoint = named(job.layout, method.title), job.config.checkpoints.name_of(method.at)
        values = method.suspicious * np.asarray(table[column], float)
        both = known & np.isfinite(values)
        rows.append(_figure(f"AUC of wrong labels by {title} at {checkpoint}", auc(values[both], wrong[both]), models))
    return rows


def _figure(what: str, value: Any, models: int) -> dict[str, Any]:
    return {"figure": what, "value": float(value), "models": models}
