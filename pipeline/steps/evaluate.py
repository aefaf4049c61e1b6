"""Evaluate: how well each score finds the rows whose given label is wrong, and what relabelling gets right.

True labels are used by this stage alone; planning only checks and digests them. Every table carries the simple
controls: loss at the same checkpoint, gradient norm, nearest neighbours on the inputs, and the prediction itself, as it
is and besides the given label.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from pipeline.core.agreement import auc, average_precision, recall_after
from pipeline.core.influence import likeliest, likeliest_other
from pipeline.errors import DataError
from pipeline.methods import CHECKPOINTS, METHODS, RANKED, columns_of
from pipeline.steps.estimating import RunStores
from pipeline.steps.inputs import space_of, vectors
from pipeline.steps.job import Job
from pipeline.steps.predictions import said_at
from pipeline.steps.relabelling import best_labels
from pipeline.steps.stores import open_candidates
from pipeline.steps.tables import write_evaluation
from pipeline.steps.tasks import task_of, use_threads
from pipeline.steps.titles import named
from pipeline.storage.artefact import open_artefact
from pipeline.storage.tables import read_table, write_table
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set

Array = np.ndarray[Any, Any]

LABELS = ("suggested", "otherwise", "predicted")
"""Columns of scores.parquet that say a label."""

BESIDES = "prediction besides the given label"
"""The control of `otherwise`."""

NOTE = "judged by true labels, which are used here only"

POINTS = 101
"""Of a curve of recall over the rows inspected."""


@dataclass(frozen=True)
class Judged:
    """A score of the rows that it is judged on, [n], larger being more suspicious, and which of them are wrong, [n]."""

    method: str
    checkpoint: str
    control: bool
    values: Array
    wrong: Array

    @property
    def head(self) -> dict[str, Any]:
        """The first columns of its rows in tables."""
        return {"method": self.method, "checkpoint": self.checkpoint, "control": self.control}


def run(job: Job) -> None:
    """Write `evaluation/` mislabel, relabel and recall; empty where no or every label is wrong."""
    use_threads(job.config)
    plan = job.plan()
    task = task_of(job.config, plan)
    if task.true_labels is None:
        raise DataError(
            "expected a task with true_labels to evaluate against, got one without; give it the property true_labels"
        )
    columns = [*(["wrong"] if plan.labelled else []), *columns_of(job.config.scores.estimators)]
    scores = read_table(job.layout.scores, ["given", "flag", *columns, *(LABELS if plan.labelled else ())])
    truth, given = np.asarray(task.true_labels), np.asarray(scores["given"])
    judged = (truth >= 0) & (np.asarray(scores["flag"]) == 0)
    wrong = truth != given
    count = int((judged & wrong).sum())
    possible = 0 < count < judged.sum()
    if not possible:
        job.say(f"nothing to judge: {count} of {int(judged.sum())} given labels are wrong, and both kinds are needed")
    identity = {
        "scores": open_artefact(job.layout.scores, "scores").digest,
        "evaluate": job.config.evaluate.plain(),
        "candidates": _candidates(job),
    }
    if plan.labelled:
        found = _relabel(job, task, scores, truth, wrong & judged, _detected(scores, judged, count)) if possible else []
        write_evaluation(job, "relabel", found, identity, NOTE)
    asked = list(_asked(job, task, scores, judged, wrong)) if possible else []
    _write_recall(job, identity, asked)
    # The rule's output comes last: while it is missing, the stage is not done.
    rows = [{**each.head, **_measures(each.values, each.wrong), "rows": len(each.values)} for each in asked]
    write_evaluation(job, "mislabel", rows, identity, NOTE)


def _asked(job: Job, task: Task, scores: dict[str, list[Any]], judged: Array, wrong: Array) -> Iterator[Judged]:
    """Every score, on the judged rows where it is a number, and the neighbours; says where these are not all."""
    for column in (name for name in RANKED if name in scores):
        method, values = RANKED[column], np.array([np.nan if v is None else v for v in scores[column]], float)
        title, checkpoint = named(job.layout, method.title), job.config.checkpoints.name_of(method.at)
        known = judged & np.isfinite(values)
        possible = 0 < (wrong & known).sum() < known.sum()
        if missing := int((judged & ~known).sum()):
            what = "it is judged on the others" if possible else "it is left out, as the others are of one kind"
            job.say(f"{title} at {checkpoint} is no number for {missing} of {int(judged.sum())} rows: {what}")
        if possible:
            yield Judged(title, checkpoint, method.control, method.suspicious * values[known], wrong[known])
    neighbours = _neighbours(job, task, np.asarray(scores["given"]), judged)
    if neighbours is not None:
        yield Judged("kNN on the inputs", "none", True, neighbours[judged], wrong[judged])


def _write_recall(job: Job, identity: dict[str, Any], asked: list[Judged]) -> None:
    """How many of the wrong labels are among so many rows of largest score, for the curves of the report."""
    columns: dict[str, list[Any]] = {"method": [], "checkpoint": [], "control": [], "inspected": [], "recall": []}
    for each in asked:
        counts = np.unique(np.linspace(0, len(each.values), POINTS).round().astype(int))
        found = recall_after(each.values, each.wrong, counts)
        for count, recall in zip(counts.tolist(), found.tolist(), strict=True):
            for name, value in {**each.head, "inspected": count, "recall": recall}.items():
                columns[name].append(value)
    with job.writing(job.layout.evaluation("recall"), "evaluation", {**identity, "table": "recall"}) as (path, _):
        write_table(path, columns, {"recall": "share of the wrong labels among the rows inspected, worst first"})


def _measures(values: Array, wrong: Array) -> dict[str, float]:
    worst = np.argsort(-values, kind="stable")[: int(wrong.sum())]
    return {
        "auc": auc(values, wrong),
        "average_precision": average_precision(values, wrong),
        "recall_at_rate": float(wrong[worst].mean()),
    }


def _neighbours(job: Job, task: Task, given: Array, judged: Array) -> Array | None:
    """Share of a row's nearest others whose given label differs from its own, [N]; NaN for rows that are not judged.

    None for inputs that are no points.
    """
    rows, positions = row_set(task, "train"), np.nonzero(judged)[0]
    inputs = vectors(space_of(rows, positions), rows, positions)
    if inputs is None:
        return None
    count = min(job.config.evaluate.neighbours, len(inputs) - 1)
    if count < 1:
        return None
    labels = given[judged]
    found = KNeighborsClassifier(n_neighbors=count).fit(inputs, labels).kneighbors(return_distance=False)
    share = np.full(len(given), np.nan)
    share[judged] = (labels[found] != labels[:, None]).mean(1)
    return share


def _relabel(job: Job, task: Task, scores: dict[str, list[Any]], truth: Array, wrong: Array,
             detected: Array) -> list[dict[str, Any]]:  # fmt: skip
    """Share of the truly mislabelled rows, and of the detected ones, whose suggested label is the true one.

    `rows` of the `wrong` ones are judged, and `detected` of as many: those that have candidates.
    """
    given, said = np.asarray(scores["given"]), {name: said_at(task, job.layout, name) for name in CHECKPOINTS}
    suggestions = {
        (named(job.layout, "FVM, argmin of S over labels"), "flat", False): np.asarray(scores["suggested"]),
        ("posterior, likeliest other label", "flat", False): np.asarray(scores["otherwise"]),
        **_suggested_by(job),
        ("prediction", "flat", True): np.asarray(scores["predicted"]),
        ("prediction", "trained", True): likeliest(said["trained"]),
        # `otherwise` never repeats the given label, so its control must not either.
        **{(BESIDES, name, True): likeliest_other(said[name], given) for name in CHECKPOINTS},
    }
    judged = np.asarray(scores["suggested"]) >= 0  # the same rows for all
    rows = []
    for (method, checkpoint, control), labels in suggestions.items():
        head = {"method": method, "checkpoint": checkpoint, "control": control}
        of_wrong, of_detected = (_share(labels == truth, judged & chosen) for chosen in (wrong, detected))
        rows.append({**head, "accuracy": of_wrong[0], "rows": of_wrong[1], "wrong": int(wrong.sum()),
                     "of_detected": of_detected[0], "detected": of_detected[1]})  # fmt: skip
    return rows


def _share(right: Array, chosen: Array) -> tuple[float, int]:
    """Share of the chosen rows that are right, and how many there are."""
    return (float(right[chosen].mean()) if chosen.any() else float("nan")), int(chosen.sum())


def _detected(scores: dict[str, list[Any]], judged: Array, count: int) -> Array:
    """As many rows as there are wrong labels, the most suspicious first, [N] bool."""
    suspicion = np.where(judged, np.array([np.nan if v is None else v for v in scores["wrong"]], float), -np.inf)
    chosen = np.zeros(len(judged), bool)
    chosen[np.argsort(-np.nan_to_num(suspicion, nan=-np.inf, neginf=-np.inf), kind="stable")[:count]] = True
    return chosen & judged


def _candidates(job: Job) -> dict[str, list[str]]:
    """Digests of the gradients under every label that estimators suggest labels from."""
    wanted = job.config.checkpoints.expanded(METHODS[name].at[0] for name in job.config.evaluate.relabel)
    return (
        {}
        if not job.plan().labelled
        else {name: open_candidates(job.layout, job.plan(), name, "train").digests() for name in wanted}
    )


def _suggested_by(job: Job) -> dict[tuple[str, str, bool], Array]:
    """The labels that the estimators of `evaluate.relabel` suggest, by the heads of their rows."""
    stores, found = RunStores(job.layout, job.plan(), job.workers()), {}
    for name in job.config.evaluate.relabel:
        at = job.config.checkpoints.expanded(METHODS[name].at[:1])
        job.say(f"relabelling by {METHODS[name].title}")
        title = f"{METHODS[name].title}, argmax over labels"
        found[title, job.config.checkpoints.name_of(METHODS[name].at), False] = best_labels(stores, name, at)
    return found
