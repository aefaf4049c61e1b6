"""Scores of a run against its true labels: measures against scikit-learn, curves, and what people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics

from pipeline import config as settings
from pipeline.cli.evaluate import say_unjudged
from pipeline.steps import evaluate, prepare, train
from pipeline.steps.evaluations import evaluations
from pipeline.steps.job import Job
from pipeline.steps.tasks import task_of
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table, write_table

ROWS = 60
COLUMNS = ("s", "loss_flat", "norm_flat", "loss_trained")


def job(run: Path, stage: str, noise: str) -> Job:
    options = {"train_size": ROWS, "validation_size": 20, "query_size": 5, "epochs": 1, "hidden": [8], "noise": noise}
    values = {"task": {"class": "digits", "options": options}, "scores": {"estimators": []}}
    return Job(stage, Layout(run), settings.validate(settings.merge(settings.defaults(), values)), lambda line: None)


def evaluated(run: Path, noise: str = "uniform", known: int = ROWS) -> tuple[Job, dict[str, np.ndarray], np.ndarray]:
    """A run with made scores that has been evaluated, its scores, and which labels are wrong; row 7 is not a number.

    S suggests labels for the first `known` rows.
    """
    prepare.run(job(run, "prepare", noise))
    train.run(job(run, "train", noise))
    made = job(run, "evaluate", noise)
    task, stream = task_of(made.config, made.plan()), np.random.default_rng(0)
    given, truth = np.asarray(task.labels), np.asarray(task.true_labels)
    scores = {name: stream.normal(size=ROWS) + (given != truth) for name in (*COLUMNS, "wrong")}
    scores["s"][7] = np.nan
    columns: dict[str, Any] = {**scores, "given": given, "flag": (np.arange(ROWS) == 7).astype(int)}
    columns |= {"suggested": np.where(np.arange(ROWS) % 2, truth, given), "predicted": truth, "otherwise": truth}
    columns["suggested"][known:] = -1
    with made.writing(made.layout.scores, "scores", {}) as (path, _):
        write_table(path, columns, {})
    evaluate.run(made)
    return made, scores, given != truth


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, np.ndarray], np.ndarray]:
    return evaluated(tmp_path_factory.mktemp("evaluate"))


def test_measures_are_those_of_scikit_learn_on_the_rows_that_are_numbers(made):
    job, scores, wrong = made
    (row,) = [row for row in open_artefact(job.layout.evaluation("mislabel"), "evaluation").record["rows"]
              if row["method"] == "FVM, set level (S)"]  # fmt: skip
    kept = np.arange(ROWS) != 7
    assert row["auc"] == pytest.approx(metrics.roc_auc_score(wrong[kept], scores["s"][kept]))
    assert row["average_precision"] == pytest.approx(metrics.average_precision_score(wrong[kept], scores["s"][kept]))
    assert (row["checkpoint"], row["control"]) == ("flat", False)


def test_the_curve_counts_wrong_labels_among_the_rows_inspected(made):
    job, scores, wrong = made
    table = read_table(job.layout.evaluation("recall"))
    own = [i for i, name in enumerate(table["method"]) if (name, table["checkpoint"][i]) == ("loss", "flat")]
    kept = np.arange(ROWS) != 7
    hits = wrong[kept][np.argsort(-scores["loss_flat"][kept])]
    assert [table["inspected"][i] for i in own] == list(range(ROWS))
    np.testing.assert_allclose([table["recall"][i] for i in own], np.append(0, np.cumsum(hits)) / hits.sum())


def test_relabelling_is_right_where_the_suggestion_is_the_true_label(made):
    job, _, wrong = made
    rows = open_artefact(job.layout.evaluation("relabel"), "evaluation").record["rows"]
    judged = np.flatnonzero(wrong & (np.arange(ROWS) != 7))
    assert rows[0]["accuracy"] == pytest.approx((judged % 2 == 1).mean()) and rows[1]["accuracy"] == 1


def test_detected_rows_are_as_many_of_the_most_suspicious_as_are_wrong(made):
    job, scores, wrong = made
    (row,) = [row for row in open_artefact(job.layout.evaluation("relabel"), "evaluation").record["rows"]
              if (row["method"], row["checkpoint"]) == ("FVM, argmin of S over labels", "flat")]  # fmt: skip
    kept = np.flatnonzero(np.arange(ROWS) != 7)
    worst = kept[np.argsort(-scores["wrong"][kept])][: wrong[kept].sum()]
    right = (worst % 2 == 1) | ~wrong[worst]
    assert (row["of_detected"], row["detected"]) == (pytest.approx(right.mean()), len(worst))


def test_relabelling_says_on_how_many_of_the_wrong_rows_it_is_judged(made, tmp_path, capsys):
    whole, _, wrong = made
    some, *_ = evaluated(tmp_path, known=20)
    tables = [open_artefact(job.layout.evaluation("relabel"), "evaluation").record["rows"] for job in (whole, some)]
    kept = wrong & (np.arange(ROWS) != 7)
    assert {(row["rows"], row["wrong"]) for row in tables[0]} == {(kept.sum(), kept.sum())}
    assert {(row["rows"], row["wrong"]) for row in tables[1]} == {(kept[:20].sum(), kept.sum())}
    (shown,) = [each for each in evaluations(some.layout) if "wrong labels have been" in each.question]
    assert {row.note for row in shown.rows} == {f"{kept[:20].sum()} of {kept.sum()} wrong rows"}
    for rows in tables:
        say_unjudged(rows[0], some.plan())
    assert capsys.readouterr().out == (
        f"labels are judged on {kept[:20].sum()} of {kept.sum()} rows whose label is wrong: the others have no gradients "
        "under every label; all have them with candidates.rows all and candidates.max_classes 10 or more\n"
    )


def test_people_can_read_the_tables(made):
    job, _, _ = made
    for table in ("mislabel", "relabel"):
        rows = open_artefact(job.layout.evaluation(table), "evaluation").record["rows"]
        text = job.layout.evaluation(table).with_suffix(".md").read_text()
        assert text.startswith("judged by true labels") and text.count("\n| ") == len(rows) + 2


def test_tables_are_empty_where_no_label_is_wrong(tmp_path):
    job, _, wrong = evaluated(tmp_path, "none")
    assert not wrong.any()
    assert open_artefact(job.layout.evaluation("mislabel"), "evaluation").record["rows"] == []
    assert read_table(job.layout.evaluation("recall"))["recall"] == []
