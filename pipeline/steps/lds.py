"""LDS: do summed scores predict what models on random subsets of the train rows make of the query rows?

Every pairwise score that the stores answer, beside controls: the label alone, the inputs alone, the loss of the train
row. The response is named, and so is the ceiling that the randomness of training sets.
Letters: N train rows, Q queries, m subsets, R models a subset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core import datamodels
from pipeline.core.estimators import PairEstimator
from pipeline.core.estimators.base import Rows
from pipeline.core.influence import pairwise
from pipeline.errors import DataError
from pipeline.methods import METHODS, paired
from pipeline.steps.estimating import RunStores, fitted
from pipeline.steps.inputs import space_of, vectors
from pipeline.steps.job import Job
from pipeline.steps.retrained import RESPONSES, Retrained, open_retrained
from pipeline.steps.tables import write_evaluation
from pipeline.steps.tasks import derive, task_of, use_threads
from pipeline.steps.titles import named
from pipeline.tasks.altered import labels_of
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

BATCH_ROWS = 256


@dataclass(frozen=True)
class Predictor:
    """A method, where it was asked, and its summed scores of every query and subset, [Q, m]."""

    method: str
    checkpoint: str
    signed: bool
    control: bool
    predicted: Array


def run(job: Job, set_name: str) -> None:
    """Write `evaluation/lds-<set>.parquet`."""
    use_threads(job.config)
    plan, config = job.plan(), job.config
    if not plan.splits["query"].rows:
        raise DataError("expected query rows to predict, got none; give the task query_rows")
    retrained = open_retrained(job.layout, plan, config, set_name)
    actions = list(retrained.actions().values())
    kept = retrained.read("kept")[[positions[0] for positions in actions]].astype(np.float64)
    stores = RunStores(job.layout, plan, job.workers())
    asked = [(name, config.checkpoints.expanded(at)) for name, at in paired(config.scores.estimators)]
    counted = np.all([stores.sets("query", at)[name].counted() for _, at in asked for name in at], 0)
    queries = np.flatnonzero(counted)
    predictors = [*(_score(job, stores, name, at, queries, kept) for name, at in asked),
                  *_controls(stores, task_of(config, plan), queries, kept)]  # fmt: skip
    seed = derive(config.seed, "lds")
    rows = [
        row
        for name in retrained.responses()
        for row in _judged(predictors, responses(retrained, actions, name)[:, queries], name, seed)
    ]
    identity = {"members": retrained.digests(), "gradients": stores.digests(),
                "solved": stores.digests_of_solved(name for name, _ in asked)}  # fmt: skip
    write_evaluation(job, f"lds-{set_name}", rows, identity, "LDS: larger is better; signed scores: positive helped")


def responses(retrained: Retrained, actions: list[list[int]], name: str) -> Array:
    """The response of every model, query and subset, larger being better, [R, Q, m]."""
    values = RESPONSES[name][1] * retrained.read(f"query_{name}").astype(np.float64)
    return values[np.array(actions).T].transpose(0, 2, 1)


def _judged(predictors: list[Predictor], response: Array, name: str, seed: int) -> Iterator[dict[str, Any]]:
    """A row a method, and one for the ceiling."""
    models, _, subsets = response.shape
    what = {"response": RESPONSES[name][0], "subsets": subsets, "models": models}
    for each in predictors:
        value, low, high = datamodels.lds(each.predicted, response.mean(0), seed)
        head = {"method": each.method, "checkpoint": each.checkpoint, "signed": each.signed, "control": each.control}
        yield {**head, "lds": value, "low": low, "high": high, **what}
    top = datamodels.ceiling(response)
    head = {"method": "one retrained model for the others (ceiling)", "checkpoint": "none"}
    yield {**head, "signed": True, "control": True, "lds": top, "low": None, "high": None, **what}


@dataclass(frozen=True)
class SubsetSums:
    """Scores of queries summed over the rows of each subset, [q, m]; `asked` is what the queries ask with, [q, D]."""

    estimator: PairEstimator
    asked: Array
    kept: Array

    def __call__(self, rows: Rows) -> Array:
        """Over some rows."""
        summed: Array = self.estimator.answered(self.asked, rows) @ self.kept[:, rows.positions].T
        return summed


def _score(job: Job, stores: RunStores, name: str, at: list[str], queries: Array, kept: Array) -> Predictor:
    """A score of pairs, at the checkpoints that answer it."""
    method, estimator = METHODS[name], fitted(stores, name, at)
    if not isinstance(estimator, PairEstimator):
        raise AssertionError(f"{name} has no pairs")
    title = named(job.layout, method.title)
    job.say(f"predicting by {title} at {'+'.join(at)}")
    asked = estimator.ask(stores.picked("query", at, queries))
    summed = stores.total("train", at, SubsetSums(estimator, asked, kept))
    return Predictor(title, "+".join(at), method.pairs == "signed", method.control, summed)


def _controls(stores: RunStores, task: Task, chosen: Array, kept: Array) -> Iterator[Predictor]:
    """What needs no gradient: rows of the query's label, rows that look like it, and rows of small loss."""
    rows, queries = row_set(task, "train"), row_set(task, "query")
    losses = np.nan_to_num(stores.sets("train", ["trained"])["trained"].column("loss").astype(np.float64))
    yield Predictor("loss of the train row", "trained", True, True, np.tile(-(kept @ losses), (len(chosen), 1)))
    own, asked = _labels(rows), _labels(queries)
    same = None
    if own is not None and asked is not None:
        asked = asked[chosen]
        same = (asked[:, None] == own[None]).astype(np.float64)
        yield Predictor("same label", "none", True, True, same @ kept.T)
    space = space_of(rows, np.arange(len(rows)))
    seen, new = (vectors(space, each, np.arange(len(each))) for each in (rows, queries))
    if seen is not None and new is not None:
        near = pairwise("cosine", new[chosen] - seen.mean(0), seen - seen.mean(0))
        yield Predictor("cosine of the inputs", "none", True, True, near @ kept.T)
        if same is not None:
            yield Predictor("cosine of the inputs, minus where labels differ", "none", True, True,
                            (np.maximum(near, 0) * (2 * same - 1)) @ kept.T)  # fmt: skip


def _labels(rows: RowSet) -> Array | None:
    """Labels of all rows, [n]; None where rows have none."""
    found = [labels_of(rows.batch(part)) for part in _parts(len(rows))]
    known = [each.numpy() for each in found if each is not None]
    return np.concatenate(known) if known and len(known) == len(found) else None


def _parts(count: int) -> list[range]:
    return [range(start, min(start + BATCH_ROWS, count)) for start in range(0, count, BATCH_ROWS)]
