"""Retrieval: does what is said to have driven a prediction come from the query's own group?

For tasks that know groups (authors, styles, classes). Every method that scores pairs ranks all train rows for every
query row by the stores alone; beside them stand controls that know no gradient (`likeness`) and chance. Groups are read
by this stage alone; planning only digests them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.core.estimators import PairEstimator
from pipeline.core.grouped import by_chance, judged, same_group
from pipeline.core.influence import pairwise
from pipeline.errors import DataError
from pipeline.methods import CHECKPOINTS, METHODS
from pipeline.steps.codes import BLOCK_HELD_BYTES
from pipeline.steps.estimating import RunStores, fitted
from pipeline.steps.inputs import Bags, space_of, vectors
from pipeline.steps.job import Job
from pipeline.steps.likeness import bm25, tf_idf
from pipeline.steps.pieces import RowBlock, row_blocks
from pipeline.steps.tables import write_evaluation
from pipeline.steps.tasks import model_at, task_of, use_threads
from pipeline.steps.titles import named
from pipeline.storage.artefact import read_manifest
from pipeline.storage.reduction import each
from pipeline.tasks.base import Task, has_features
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

FEATURE_ROWS = 64
"""Rows of a batch of features."""


@dataclass(frozen=True)
class Asked:
    """A method that is asked about pairs.

    Attributes:
        name: of `pipeline.methods`.
        at: its checkpoints.
        estimator: fitted.
        vectors: what the queries ask with, [q, D].
    """

    name: str
    at: tuple[str, ...]
    estimator: PairEstimator
    vectors: Array


def run(job: Job) -> None:
    """Write `evaluation/retrieval.parquet`: a row a method, means and deviations over the queries."""
    use_threads(job.config)
    plan, stores = job.plan(), RunStores(job.layout, job.plan(), job.workers())
    task = task_of(job.config, plan)
    groups = [task.groups(split) for split in ("train", "query")]
    if groups[0] is None or groups[1] is None or not plan.splits["query"].rows:
        raise DataError(
            "expected a task with groups(split) of its train and query rows to judge retrieval by, got one without; "
            "write the method"
        )
    wanted = list(variants(job))
    at = sorted({name for _, names in wanted for name in names})
    rows, queries = (_counted(stores, split, at) for split in ("train", "query"))
    own = same_group([groups[1][i] for i in queries], [groups[0][i] for i in rows])
    asked = [_ask(job, stores, name, names, queries) for name, names in wanted]
    found = [
        {"method": named(job.layout, METHODS[each.name].title), "checkpoint": "+".join(each.at), "control": False,
         **_summary(judged(scores[:, rows], own))}
        for each, scores in zip(asked, score_pairs(job, stores, asked, len(queries)), strict=True)
    ]  # fmt: skip
    for name, checkpoint, scores in _controls(job, task, queries, rows):
        found.append({"method": name, "checkpoint": checkpoint, "control": True, **_summary(judged(scores, own))})
    found.append({"method": "chance", "checkpoint": "none", "control": True, **_summary(by_chance(own))})
    identity = {"gradients": stores.digests(), "groups": plan.groups, "retired": list(plan.retired),
                "solved": stores.digests_of_solved(each.name for each in asked)}  # fmt: skip
    note = f"retrieval by groups, which are used here only: means and deviations over {len(queries)} queries"
    write_evaluation(job, "retrieval", found, identity, note)


def variants(job: Job) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Methods that score pairs, each at each of its checkpoints; those that want what the run has not are left out."""
    further = job.config.checkpoints
    for name, method in METHODS.items():
        if not method.pairs or (method.projections and _projection(job) not in method.projections):
            continue
        if {"ensemble", "solved"} & set(method.reads) and name not in job.config.scores.estimators:
            continue  # a run makes them only where they are asked for
        if set(method.at) <= set(CHECKPOINTS):
            yield from ((name, (checkpoint,)) for checkpoint in method.at)
        elif (name != "trak" or further.seeds) and (at := tuple(further.expanded(method.at[:1]))):
            yield name, at  # TRAK of the models of the run; f-INE where there is a twin


def _projection(job: Job) -> str:
    return str(read_manifest(job.layout.projection("trained")).identity["projection"]["method"])


def _counted(stores: RunStores, split: str, at: Sequence[str]) -> Array:
    """Positions of the rows that count at all checkpoints."""
    counted = [codes.counted() for codes in stores.sets(split, at).values()]
    return np.nonzero(np.logical_and.reduce(counted))[0]


def _ask(job: Job, stores: RunStores, name: str, at: Sequence[str], queries: Array) -> Asked:
    job.say(f"fitting {named(job.layout, METHODS[name].title)} at {'+'.join(at)}")
    estimator = fitted(stores, name, at)
    assert isinstance(estimator, PairEstimator)
    return Asked(name, tuple(at), estimator, estimator.ask(stores.picked("query", at, queries)))


def score_pairs(job: Job, stores: RunStores, asked: Sequence[Asked], count: int) -> list[Array]:
    """Scores of all train rows by position for each query, [q, N] float32 for each method, in one pass.

    NaN for rows that do not count.
    """
    at = list(dict.fromkeys(name for each in asked for name in each.at))
    blocks = row_blocks(stores.sets("train", at), stores.losses("train"))
    progress = job.progress("scoring pairs", len(blocks), "blocks")
    parts = each(pairs_of, blocks, stores.workers, (tuple(asked),), len(at) * BLOCK_HELD_BYTES, progress.add)
    found = [np.full((count, stores.plan.splits["train"].rows), np.nan, np.float32) for _ in asked]
    for part in parts:
        for scores, (positions, values) in zip(found, part, strict=True):
            scores[:, positions] = values
    return found


def pairs_of(block: RowBlock, asked: Sequence[Asked]) -> list[tuple[Array, Array]]:
    """Positions [n] and scores [q, n] of a block's rows for each method."""
    found: list[list[tuple[Array, Array]]] = [[] for _ in asked]
    for piece in block.pieces():
        for method, parts in zip(asked, found, strict=True):
            rows = piece.of(method.at)
            scores = method.estimator.answered(method.vectors, rows)
            parts.append((rows.positions, scores.astype(np.float32)))
    return [
        (np.concatenate([positions for positions, _ in parts]), np.concatenate([values for _, values in parts], 1))
        for parts in found
    ]


def _controls(job: Job, task: Task, queries: Array, rows: Array) -> Iterator[tuple[str, str, Array]]:
    """Name, checkpoint and scores [q, n] of what knows no gradient."""
    sides = (row_set(task, "query"), queries), (row_set(task, "train"), rows)
    texts = [[task.show(side.row(int(i))).text for i in own] for side, own in sides]
    shown = all(text is not None for side in texts for text in side)
    if shown:
        asked, held = ([text or "" for text in side] for side in texts)
        yield "BM25", "none", bm25(asked, held)
        yield "cosine of TF-IDF", "none", tf_idf(asked, held)
    space = space_of(*sides[1])
    if not (shown and isinstance(space, Bags)):  # their words have been compared
        first, second = (vectors(space, side, own) for side, own in sides)
        if first is not None and second is not None:
            yield "cosine of the inputs", "none", pairwise("cosine", first, second)
    if has_features(task):
        for checkpoint in CHECKPOINTS:
            model = model_at(task, job.layout, checkpoint)
            made = [_features(task, model, side, own) for side, own in sides]
            yield "cosine of features", checkpoint, pairwise("cosine", *made)


def _features(task: Task, model: torch.nn.Module, rows: RowSet, positions: Array) -> Array:
    """What the model makes of rows, [n, D] float64."""
    found = []
    with torch.no_grad():
        for start in range(0, len(positions), FEATURE_ROWS):
            batch = rows.batch([int(i) for i in positions[start : start + FEATURE_ROWS]])
            found.append(task.features(model, batch).double().numpy())
    return np.concatenate(found)


def _summary(measures: Mapping[str, Array]) -> dict[str, float]:
    """Mean over the queries that have both kinds, and standard deviation."""
    found: dict[str, float] = {}
    for name, values in measures.items():
        known = values[np.isfinite(values)]
        found[name] = float(known.mean()) if len(known) else float("nan")
        found[f"{name}, deviation"] = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
    return found
