"""Report: collect what a run has found, show its rows as people see them, and write one page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from pipeline import __version__
from pipeline.config import parse_score
from pipeline.core.influence import SIGNED
from pipeline.methods import TRACED
from pipeline.report.data import HARM, WRONG, Confusion, Hit, QueryAnswer, Report, ScoreKind, Scores, Sizes, Suspect
from pipeline.report.page import render
from pipeline.shards import Plan
from pipeline.steps.asked import made
from pipeline.steps.background import (
    curvatures,
    flagged,
    flattening,
    indexes,
    provenance,
    sharpness,
    warnings,
)
from pipeline.steps.evaluations import evaluations
from pipeline.steps.job import Job
from pipeline.steps.query import SIGN
from pipeline.steps.ranking import harm, read_suspects, usual
from pipeline.steps.seen import unseen_share
from pipeline.steps.tasks import checked_shown, model_at, task_of
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from pipeline.tasks.base import Shown, Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

HITS = 8
"""Rows shown a query and direction."""


def run(job: Job) -> None:
    """Write `report/index.html`."""
    plan, layout = job.plan(), job.layout
    task = task_of(job.config, plan)
    column = usual(job.config.suspects.score, plan)
    table = read_table(layout.scores, [column, "given"])
    table["harm"] = list(harm(column, table[column]))
    suspects = _suspects(job, plan, task, table, column)
    projection = open_artefact(layout.projection("flat"), "projection")
    unseen = unseen_share(layout)
    report = Report(
        title=type(task).__name__,
        run=layout.run.resolve().name,
        sizes=Sizes(
            train=plan.splits["train"].rows,
            validation=plan.splits["validation"].rows,
            queries=plan.splits["query"].rows,
            parameters=projection.record["parameters"],
            kept=projection.identity["projection"]["dimension"],
            codec=projection.identity["gradients"]["codec"],
            checkpoints=("trained", "flat"),
            classes=len(plan.classes) or None,
        ),
        harm=_kind(column),
        suspects=suspects,
        queries=_queries(job, plan, task, table),
        flattening=flattening(layout),
        sharpness=sharpness(layout),
        curvatures=curvatures(layout),
        indexes=indexes(layout),
        scores=_scores(plan, table),
        confusion=_confusion(plan, suspects),
        evaluations=evaluations(layout) if job.config.report.evaluation else [],
        flagged=flagged(layout, plan),
        unseen=unseen,
        warnings=warnings(layout, plan, unseen),
        provenance=provenance(layout),
        config=layout.config.read_text(encoding="utf-8"),
        version=__version__,
    )
    identity = {
        "scores": open_artefact(layout.scores, "scores").digest,
        "topk": open_artefact(layout.topk, "query").digest,
        "report": job.config.report.plain(),
        "suspects": job.config.suspects.plain(),
        "evaluations": made(layout),
    }
    with job.writing(layout.report, "report", identity) as (path, _):
        path.write_text(render(report), encoding="utf-8")


def _finite(table: dict[str, list[Any]]) -> Array:
    scores = np.array([np.nan if value is None else value for value in table["harm"]], float)
    return scores[np.isfinite(scores)]


def _kind(column: str) -> ScoreKind:
    """How the report speaks of a column of the score table."""
    checkpoint = "trained" if column in ("loss_trained", "self_influence", *TRACED) else "flat"
    return {"s": HARM, "wrong": WRONG}.get(column, ScoreKind(column, checkpoint, HARM.meaning, signed=False))


def _suspects(job: Job, plan: Plan, task: Task, table: dict[str, list[Any]], column: str) -> list[Suspect]:
    scores = np.sort(_finite(table))
    found = read_suspects(job.layout, plan, column, min(job.config.report.suspects, len(scores)))
    rows = row_set(task, "train")
    return [
        Suspect(
            **suspect.plain(),
            percentile=100 * float(np.searchsorted(scores, suspect.score)) / len(scores),
            shown=_shown(task, rows, suspect.row),
        )
        for suspect in found
    ]


def _shown(task: Task, rows: RowSet, row: int) -> Shown:
    """How people see a row; where the task's `show` fails, its text says so instead of the page failing."""
    try:
        return checked_shown(task.show(rows.row(row)))
    except Exception as error:
        return Shown(text=f"(show failed: {type(error).__name__}: {error})")


def _scores(plan: Plan, table: dict[str, list[Any]]) -> Scores:
    known = [i for i, value in enumerate(table["harm"]) if value is not None and np.isfinite(value)]
    given = [plan.classes[table["given"][i]] for i in known] if plan.labelled else None
    return Scores(np.array([table["harm"][i] for i in known], float), given)


def _confusion(plan: Plan, suspects: Iterable[Suspect]) -> Confusion | None:
    if not plan.labelled:
        return None
    position = {name: i for i, name in enumerate(plan.classes)}
    counts = np.zeros((len(plan.classes), len(plan.classes)), int)
    for suspect in suspects:
        if suspect.given is not None and suspect.suggested is not None and suspect.given != suspect.suggested:
            counts[position[suspect.given], position[suspect.suggested]] += 1
    return Confusion(plan.classes, counts)


def _queries(job: Job, plan: Plan, task: Task, table: dict[str, list[Any]]) -> list[QueryAnswer]:
    """Some query rows, spread over the set, with the answers of the first score that is configured."""
    text = job.config.query.scores[0]
    score, checkpoint = parse_score(text)
    kind = ScoreKind(score, checkpoint, SIGN[SIGNED[score]].split(": ", 1)[1], SIGNED[score])
    answers = _read_topk(job.layout, text)
    asked = sorted({query for query, _ in answers})
    picked = [
        asked[i] for i in np.linspace(0, len(asked) - 1, min(job.config.report.queries, len(asked))).round().astype(int)
    ]
    if not picked:
        return []
    rows, queries = row_set(task, "train"), row_set(task, "query")
    predictions = _predictions(job.layout, plan, task, queries, picked)

    def hits(query: int, direction: str) -> list[Hit]:
        found = answers.get((query, direction), [])[:HITS]
        return [
            Hit(rank, row, value, _name(plan, table["given"][row]), _shown(task, rows, row))
            for rank, row, value in found
        ]

    return [
        QueryAnswer(
            row=query,
            top=hits(query, "top"),
            bottom=hits(query, "bottom"),
            given=_name(plan, _own_label(plan, queries.row(query))),
            prediction=prediction,
            kind=kind,
            shown=_shown(task, queries, query),
        )
        for query, prediction in zip(picked, predictions, strict=True)
    ]


def _read_topk(layout: Layout, text: str) -> dict[tuple[int, str], list[tuple[int, int, float]]]:
    """(query, direction) to (rank, row, score), in order of rank."""
    table = read_table(layout.topk)
    answers: dict[tuple[int, str], list[tuple[int, int, float]]] = {}
    columns = (table[name] for name in ("query", "score", "direction", "rank", "row", "value"))
    for query, score, direction, rank, row, value in zip(*columns, strict=True):
        if score == text:
            answers.setdefault((query, direction), []).append((rank, row, value))
    return answers


def _own_label(plan: Plan, row: Any) -> int | None:
    """The label that a query row carries, where rows are (inputs..., label) of a classification."""
    last = row[-1] if isinstance(row, (tuple, list)) and plan.classes else None
    if isinstance(last, torch.Tensor) and last.numel() == 1:
        last = last.item()
    return int(last) if isinstance(last, (int, np.integer)) and 0 <= last < len(plan.classes) else None


def _name(plan: Plan, label: int | None) -> str | None:
    return plan.classes[label] if plan.classes and label is not None and label >= 0 else None


def _predictions(layout: Layout, plan: Plan, task: Task, queries: RowSet, picked: list[int]) -> list[str | None]:
    """What the model predicts for some query rows, by name; None where it is no classification."""
    if not plan.classes:
        return [None] * len(picked)
    with torch.no_grad():
        found = task.logits(model_at(task, layout, "trained"), queries.batch(picked)).argmax(1)
    return [plan.classes[int(label)] for label in found]
