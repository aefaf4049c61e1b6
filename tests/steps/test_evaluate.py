"""Scores of a run against its true labels: measures against scikit-learn, curves, and what people read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from pipeline import config as settings
from pipeline.cli.evaluate import say_unjudged
from pipeline.steps import evaluate, prepare, train
from pipeline.steps.evaluations import evaluations
from pipeline.steps.job import Job
from pipeline.steps.tasks import model_at, task_of
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table, write_table
from pipeline.tasks.checks import row_set
from tests.minima import write_flat

ROWS = 60
COLUMNS = ("s", "loss_flat", "norm_flat", "loss_trained")
UNKNOWN = [9, 11]
"""Rows whose gradient norm is not known, though nothing else is amiss with them."""
SAID: list[str] = []


def job(run: Path, stage: str, noise: str) -> Job:
    options = {
        "train_size": ROWS,
        "validation_size": 20,
        "query_size": 5,
        "epochs": 200,
        "hidden": [32],
        "noise": noise,
    }
    values = {"task": {"class": "digits", "options": options}, "scores": {"estimators": []}}
    return Job(stage, Layout(run), settings.validate(settings.merge(settings.defaults(), values)), SAID.append)


def evaluated(
    run: Path, noise: str = "uniform", method: str = "sam", known: int = ROWS, **columns: Any
) -> tuple[Job, dict[str, np.ndarray], np.ndarray]:
    """A run with made scores that has been evaluated, its scores, and which labels are wrong; row 7 is not a number.

    `flat` has other weights than `trained`; S suggests labels for the first `known` rows; `columns` take the place of
    made ones.
    """
    prepare.run(job(run, "prepare", noise))
    train.run(job(run, "train", noise))
    made = job(run, "evaluate", noise)
    task, stream = task_of(made.config, made.plan()), np.random.default_rng(0)
    flat = model_at(task, made.layout, "trained")
    with torch.no_grad():
        for weights in flat.parameters():
            weights += torch.from_numpy(stream.normal(scale=0.05, size=weights.shape)).float()
    write_flat(made, flat, method)
    given, truth = np.asarray(task.labels), np.asarray(task.true_labels)
    scores = {name: stream.normal(size=ROWS) + (given != truth) for name in (*COLUMNS, "wrong")}
    scores["s"][7], scores["norm_flat"][UNKNOWN] = np.nan, np.nan
    scores |= columns
    labels = {"suggested": np.where(np.arange(ROWS) % 2, truth, given), "predicted": truth, "otherwise": truth}
    labels["suggested"][known:] = -1
    table: dict[str, Any] = {**scores, "given": given, "flag": (np.arange(ROWS) == 7).astype(int), **labels}
    with made.writing(made.layout.scores, "scores", {}) as (path, _):
        write_table(path, table, {})
    SAID.clear()
    evaluate.run(made)
    return made, scores, given != truth


def rows_of(made: Job, table: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a table by method and checkpoint."""
    rows = open_artefact(made.layout.evaluation(table), "evaluation").record["rows"]
    return {(row["method"], row["checkpoint"]): row for row in rows}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, np.ndarray], np.ndarray]:
    return evaluated(tmp_path_factory.mktemp("evaluate"))


@pytest.mark.parametrize(("column", "method", "checkpoint", "control"), [
    ("s", "FVM, set level (S)", "flat", False), ("wrong", "noise-channel posterior with neighbours", "flat", False),
    ("loss_flat", "loss", "flat", True), ("loss_trained", "loss", "trained", True),
    ("norm_flat", "gradient norm", "flat", True),
])  # fmt: skip
def test_measures_are_those_of_scikit_learn_on_the_rows_that_are_numbers(made, column, method, checkpoint, control):
    job, scores, wrong = made
    row = rows_of(job, "mislabel")[method, checkpoint]
    kept = (np.arange(ROWS) != 7) & np.isfinite(scores[column])
    assert row["auc"] == pytest.approx(metrics.roc_auc_score(wrong[kept], scores[column][kept]))
    assert row["average_precision"] == pytest.approx(metrics.average_precision_score(wrong[kept], scores[column][kept]))
    assert (row["control"], row["rows"]) == (control, kept.sum())


def test_a_score_that_some_rows_lack_is_judged_on_the_others_and_it_is_said(made, tmp_path):
    job, scores, wrong = made
    table = read_table(job.layout.evaluation("recall"))
    own = [i for i, name in enumerate(table["method"]) if name == "gradient norm"]
    assert [table["inspected"][i] for i in own] == list(range(ROWS - 2)) and table["recall"][own[-1]] == 1
    nothing = np.full(ROWS, np.nan)
    one_kind = np.where(wrong, scores["loss_flat"], np.nan)
    job, _, _ = evaluated(tmp_path, loss_trained=nothing, loss_flat=one_kind)
    assert {("loss", "flat"), ("loss", "trained")}.isdisjoint(rows_of(job, "mislabel"))
    assert [line for line in SAID if "is no number" in line] == [
        f"loss at flat is no number for {(~wrong).sum() - 1} of 59 rows: it is left out, as the others are of one kind",
        "gradient norm at flat is no number for 2 of 59 rows: it is judged on the others",
        "loss at trained is no number for 59 of 59 rows: it is left out, as the others are of one kind",
    ]


def test_neighbours_disagree_as_in_a_brute_force_count(made):
    job, _, wrong = made
    task, others = task_of(job.config, job.plan()), np.flatnonzero(np.arange(ROWS) != 7)
    points = {i: row_set(task, "train").row(int(i))[0].double().numpy().ravel() for i in others}
    share = {}
    for i in others:
        distances = {j: np.square(points[i] - points[j]).sum() for j in others if j != i}
        nearest = sorted(distances, key=distances.__getitem__)[: job.config.evaluate.neighbours]
        share[i] = np.mean([task.labels[j] != task.labels[i] for j in nearest])
    found = evaluate._neighbours(job, task, np.asarray(task.labels), np.arange(ROWS) != 7)
    assert found is not None and np.isnan(found[7])
    np.testing.assert_allclose(found[others], [share[i] for i in others])
    row = rows_of(job, "mislabel")["kNN on the inputs", "none"]
    assert row["auc"] == pytest.approx(metrics.roc_auc_score(wrong[others], [share[i] for i in others]))
    assert row["control"] and row["rows"] == len(others)


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


@pytest.mark.parametrize("checkpoint", ["flat", "trained"])
def test_the_control_of_otherwise_is_the_likeliest_label_besides_the_given_one(made, checkpoint):
    job, _, wrong = made
    task = task_of(job.config, job.plan())
    rows, truth = row_set(task, "train"), np.asarray(task.true_labels)
    with torch.no_grad():
        logits = task.logits(model_at(task, job.layout, checkpoint), rows.batch(range(ROWS))).numpy()
    judged, found = np.flatnonzero(wrong & (np.arange(ROWS) != 7)), rows_of(job, "relabel")
    best = [max(set(range(10)) - {task.labels[i]}, key=lambda label: logits[i][label]) for i in judged]
    plain = np.mean(logits.argmax(1)[judged] == truth[judged])  # some of these labels are learnt by heart
    row = found["prediction besides the given label", checkpoint]
    assert (
        row["accuracy"] == pytest.approx(np.mean(best == truth[judged])) and row["accuracy"] > plain and row["control"]
    )
    assert row.keys() == found["posterior, likeliest other label", "flat"].keys() and row["rows"] == len(judged)
    assert checkpoint == "flat" or found["prediction", "trained"]["accuracy"] == pytest.approx(plain)


def test_fvm_at_a_plain_minimum_is_called_vm(tmp_path):
    job, _, _ = evaluated(tmp_path, method="plain")
    assert ("VM, set level (S)", "flat") in rows_of(job, "mislabel")
    assert ("VM, argmin of S over labels", "flat") in rows_of(job, "relabel")
    assert "VM, set level (S)" in read_table(job.layout.evaluation("recall"))["method"]
    for table in ("mislabel", "relabel"):
        assert not any("FVM" in method for method, _ in rows_of(job, table))


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
