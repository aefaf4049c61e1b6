"""Ground truth by retraining, through the command: `lowland evaluate --lds --leave-one-out ...`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from tests.workflow.runs import ROWS, Project, ask, planned, succeed
from tests.workflow.steps import config_of

pytestmark = pytest.mark.workflow

RETRAIN = {"members": 6, "lds_subsets": 5, "lds_seeds": 2, "memorisation_models": 10, "seeds": 2, "rankings": ["s"],
           "single_rows": 4, "single_seeds": 2}  # fmt: skip
ASKED = ("--lds", "--leave-one-out", "--retrain", "--memorisation")


@pytest.fixture(scope="module")
def judged(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the project and everything that evaluation can train."""
    run = project.copy_of_run(tmp_path_factory.mktemp("judged"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    scores = {**config.get("scores", {}), "estimators": ["tracin", "influence_ekfac", "fvm_kfac"]}
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "retrain": RETRAIN, "scores": scores}))
    succeed("evaluate", run, *ASKED, "--cores", 2)
    return run


def tables(run: Path) -> dict[str, list[dict]]:
    answer = ask("evaluate", run, *ASKED, "--cores", 1, "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


def test_every_table_is_made_and_asked_again_costs_no_training(judged: Path) -> None:
    members = [*(Layout(judged).results / "retrain").rglob("*.zarr.json")] or [
        *(Layout(judged).results / "retrain").rglob("*.json")
    ]
    before = {path: path.stat().st_mtime_ns for path in members}
    found = tables(judged)
    wanted = {"mislabel", "relabel", "lds-half", "lds-most", "lds-single", "retraining-removal", "memorised"}
    assert wanted < set(found)
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    for table in ("mislabel", "relabel", "lds-half", "retraining-removal", "memorised"):
        assert (Layout(judged).results / "evaluation" / f"{table}.md").is_file()


def test_lds_has_every_score_of_pairs_a_ceiling_and_controls(judged: Path) -> None:
    rows = [row for row in tables(judged)["lds-half"] if row["response"] == "margin"]
    methods = {(row["method"], row["checkpoint"]) for row in rows}
    assert {("influence", "trained"), ("influence", "flat"), ("FVM, single point", "flat"), ("TracIn", "trained"),
            ("DMin (cosine)", "trained"), ("DMin (cosine)", "flat"), ("influence, EK-FAC", "trained"),
            ("FVM, single point, K-FAC", "flat")} < methods  # fmt: skip
    assert sum(row["control"] for row in rows) >= 4


def test_leave_one_out_is_judged_on_all_rows_and_all_but_one(judged: Path) -> None:
    rows = [row for row in tables(judged)["lds-single"] if row["response"] == "margin"]
    assert {(row["subsets"], row["models"]) for row in rows} == {(1 + 4, 2)}
    assert any("ceiling" in row["method"] for row in rows) and any(row["method"] == "influence" for row in rows)
    kept = list((Layout(judged).results / "retrain" / "single").rglob("row*.zarr"))
    assert len(kept) == 4 * 2


def test_more_rows_to_leave_out_than_there_are_is_said_before_any_training(project: Project, tmp_path: Path) -> None:
    run = project.copy_of_run(tmp_path)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "retrain": {**RETRAIN, "single_rows": ROWS + 1}}))
    answer = ask("evaluate", run, "--leave-one-out", "--cores", 1)
    assert answer.code == 2 and f"up to {ROWS}, the train rows that take part, got {ROWS + 1}" in answer.err
    assert not (Layout(run).results / "retrain" / "single").exists()


def test_the_oracle_removes_the_wrong_labels(judged: Path) -> None:
    rows = {(row["rows"], row["action"]): row for row in tables(judged)["retraining-removal"]}
    wrong = ROWS // 10
    assert rows["truly wrong rows (oracle)", "removed"]["removed"] == wrong
    assert rows["truly wrong rows (oracle)", "relabelled"]["relabelled"] == wrong
    assert rows["random rows", "removed"]["removed"] == wrong
    assert rows["FVM, set level (S)", "pruned"]["removed"] == ROWS // 2
    assert all(0 <= row["accuracy"] <= 1 for row in rows.values())


def test_memorisation_has_a_row_a_train_row(judged: Path) -> None:
    table = read_table(Layout(judged).evaluation("memorisation"), ["row", "memorisation"])
    assert table["row"] == list(range(ROWS)) and np.nanmax(np.asarray(table["memorisation"], float)) <= 1


def test_the_report_shows_what_was_asked_for_and_is_made_anew_when_that_changes(judged: Path) -> None:
    succeed("report", judged)
    page = Layout(judged).report
    text, before = page.read_text(), page.stat().st_mtime_ns
    for title in ("Wrong labels found", "LDS, margin", "Accuracy gained", "The long tail"):
        assert f"<h3>{title}</h3>" in text
    succeed("report", judged)
    assert page.stat().st_mtime_ns == before
    succeed("evaluate", judged, "--stability", "--cores", 1)
    succeed("report", judged)
    assert "Are the best rows the same under other dampings?" in page.read_text()


def test_a_run_is_compared_under_other_dampings_and_with_another_run(judged: Path, project: Project) -> None:
    answer = ask("evaluate", judged, "--stability", "--against", project.run, "--cores", 1, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert {row["answers"] for row in found["stability"]} == {
        "top rows of queries",
        "bottom rows of queries",
        "suspects",
    }
    assert all(row["overlap"] == 1 for row in found["against"]) and len(found["against"]) > 5
    assert found["differences"] == {str(project.run): [*(f"retrain.{name}" for name in sorted(RETRAIN)),
                                                         "scores.estimators"]}  # fmt: skip


def test_retraining_is_no_part_of_a_run(project: Project, tmp_path: Path) -> None:
    config = project.changed(tmp_path, retrain=RETRAIN)
    assert planned(project.copy_of_run(tmp_path), "-c", config) == set()


def test_rankings_are_scores_of_rows(project: Project, tmp_path: Path) -> None:
    config = project.changed(tmp_path, retrain={"rankings": ["fvm"]})
    answer = ask("run", "-c", config, "--workdir", tmp_path / "run")
    assert answer.code == 2 and "expected retrain.rankings out of wrong, s, w, " in answer.err


def test_a_run_needs_no_score_that_only_evaluation_ranks_by(project: Project) -> None:
    assert config_of(project.config, scores={"estimators": []}).retrain.rankings
