"""What the report makes of the tables of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import config as settings
from pipeline.report.data import Bars, Lines, Report, Sizes
from pipeline.report.page import render
from pipeline.steps import evaluations
from pipeline.steps.asked import made
from pipeline.steps.job import Job
from pipeline.steps.tables import write_evaluation
from pipeline.storage.layout import Layout
from pipeline.storage.tables import write_table

SCORE = {"method": "FVM, set level (S)", "checkpoint": "flat", "control": False}
CONTROL = {"method": "kNN on the inputs", "checkpoint": "none", "control": True}
LDS = {"response": "margin", "subsets": 40, "models": 3, "signed": True}
GAIN = {"spread": 0.01, "over_control": 0.02, "over_control_error": 0.003, "seeds": 5}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run that has scores."""
    made = Job("evaluate", Layout(tmp_path), settings.validate(settings.defaults()), lambda line: None)
    with made.writing(made.layout.scores, "scores", {}) as (path, _):
        write_table(path, {"s": [1.0]}, {})
    return made


def write(job: Job, table: str, rows: list[dict[str, Any]]) -> None:
    write_evaluation(job, table, rows, {}, "what it means")


def drawn(job: Job) -> list[Any]:
    found = evaluations.evaluations(job.layout)
    render(Report("t", "r", Sizes(8, 4, 0, 3, 3, "float32", ("trained",)), evaluations=found))
    return found


def test_a_run_without_evaluations_shows_none(job: Job) -> None:
    assert drawn(job) == [] and made(job.layout) == []


def test_curves_are_those_of_the_largest_areas(job: Job) -> None:
    measures = {"average_precision": 0.5, "recall_at_rate": 0.5, "rows": 900}
    rows = [{**CONTROL, "auc": 0.9, **measures}] + [
        {**SCORE, "method": f"m{i}", "auc": i / 10, **measures} for i in range(8)
    ]
    columns: dict[str, list[Any]] = {"method": [], "checkpoint": [], "control": [], "inspected": [], "recall": []}
    for row in rows:
        for count in (0, 10):
            values = (row["method"], row["checkpoint"], row["control"], count, count / 10)
            for name, value in zip(columns, values, strict=True):
                columns[name].append(value)
    write(job, "mislabel", rows)
    with job.writing(job.layout.evaluation("recall"), "evaluation", {}) as (path, _):
        write_table(path, columns, {})
    (found,) = drawn(job)
    assert isinstance(found.chart, Lines)
    assert [series.label for series in found.chart.series] == [
        "kNN on the inputs",
        *(f"m{i}, flat" for i in (7, 6, 5, 4, 3)),
    ]
    assert [series.control for series in found.chart.series] == [True] + [False] * 5
    assert found.chart.series[0].points.tolist() == [[0, 0], [10, 1]]
    assert [row.note for row in found.rows] == ["900 rows"] * 9


def test_lds_has_bars_with_intervals_for_each_response_and_the_ceiling_across(job: Job) -> None:
    top = {"method": "ceiling", "checkpoint": "none", "control": True, "lds": 0.8, "low": None, "high": None}
    rows = [{**SCORE, "lds": 0.5, "low": 0.4, "high": 0.6}, {**CONTROL, "lds": 0.1, "low": 0.0, "high": 0.2}, top]
    write(
        job,
        "lds-half",
        [{**row, **LDS, "response": response} for response in ("margin", "minus the loss") for row in rows],
    )
    first, second = drawn(job)
    assert isinstance(first.chart, Bars) and isinstance(second.chart, Bars)
    assert [(bar.value, bar.low, bar.high, bar.group) for bar in first.chart.bars] == [
        (0.5, 0.4, 0.6, "scores"), (0.1, 0.0, 0.2, "simple controls")]  # fmt: skip
    assert first.chart.levels == [("ceiling", 0.8)]
    assert "margin" in first.question and "minus the loss" in second.question and first.note == ""


def test_gains_are_points_of_accuracy_with_an_error_to_each_side(job: Job) -> None:
    def row(rows: str, action: str, gain: float, removed: int, relabelled: int) -> dict[str, Any]:
        return {"rows": rows, "checkpoint": "flat", "action": action, "control": False, "removed": removed,
                "relabelled": relabelled, "accuracy": 0.8 + gain, "over_whole": gain, "over_whole_error": 0.01, **GAIN}  # fmt: skip

    write(
        job,
        "retraining-removal",
        [row("all", "nothing", 0, 0, 0), row("S", "removed", 0.05, 7, 0), row("S", "relabelled", 0.06, 0, 7)],
    )
    (found,) = drawn(job)
    assert isinstance(found.chart, Bars)
    assert [bar.label for bar in found.chart.bars] == ["S, flat: relabelled", "S, flat: removed"]
    bar = found.chart.bars[1]
    assert (bar.value, bar.low, bar.high) == (pytest.approx(5), pytest.approx(4), pytest.approx(6))
    assert [row.note for row in found.rows] == ["nothing", "removed 7", "relabelled 7"]


def test_the_long_tail_falls_over_the_share_of_the_rows(job: Job) -> None:
    write(job, "memorised", [{"figure": "mean memorisation", "value": 0.2, "models": 4}])
    with job.writing(job.layout.evaluation("memorisation"), "memorisation", {}) as (path, _):
        write_table(path, {"memorisation": [0.1, np.nan, 0.7, 0.3]}, {})
    (found,) = drawn(job)
    assert isinstance(found.chart, Lines)
    np.testing.assert_allclose(found.chart.series[0].points, [[100 / 3, 0.7], [200 / 3, 0.3], [100, 0.1]])


def test_stability_says_what_was_changed_and_what_agreement_means(job: Job) -> None:
    row = {"answers": "suspects", "score": "FVM, W", "checkpoint": "flat", "k": 10, "overlap": 0.9, "error": None,
           "jaccard": 0.8, "chance": 0.1, "spearman": 0.99, "lists": 1}  # fmt: skip
    write(job, "stability", [{**row, "changed": "damping 1 to 10"}])
    write(job, "against", [{**row, "against": "other", "k": 2.5}])
    first, second = drawn(job)
    assert first.truth == "" and first.note == "What it means."
    assert (
        first.rows[0].note == "suspects, k = 10, damping 1 to 10" and second.rows[0].note == "suspects, k = 2.5, other"
    )
    assert [name.split()[0] for name in made(job.layout)] == ["stability", "against"]


def test_a_table_that_is_older_than_the_scores_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "record", lambda self: {"written": "2001-01-01T00:00:00Z"})
    write(job, "lds-half", [{**SCORE, **LDS, "lds": 0.5, "low": 0.4, "high": 0.6}])
    (found,) = drawn(job)
    assert found.note.startswith("This table is older than the scores of the run")
