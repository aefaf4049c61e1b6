"""`make demo` from end to end: planted noise is found, answers are those of brute force, and the stores are what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline import config as settings
from pipeline.core.agreement import auc
from pipeline.core.curvature import spectrum_of_roots
from pipeline.core.preconditioner import Preconditioner
from pipeline.core.projection import make
from pipeline.shards import Plan
from pipeline.steps.capture import set_up
from pipeline.steps.preconditioned import open_preconditioner, open_vectors
from pipeline.steps.stores import open_codes
from pipeline.steps.tasks import task_of
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table
from pipeline.tasks.checks import row_set
from tests.oracles_retrieval import brute_force, decoded, query_vector
from tests.workflow.runs import ask, environment, succeed

pytestmark = pytest.mark.workflow

SCORES = ("influence@trained", "influence@flat", "fvm@flat", "cosine@trained", "cosine@flat")


@pytest.fixture(scope="module")
def scores(demo: Path) -> dict[str, np.ndarray]:
    return {
        name: np.asarray(values) for name, values in read_table(Layout(demo).scores).items() if name != "s_by_label"
    }


@pytest.fixture(scope="module")
def wrong(demo: Path) -> np.ndarray:
    """Which given labels are wrong, by the task itself."""
    task = task_of(settings.validate(settings.defaults()), Plan.load(Layout(demo).plan))
    return np.asarray(task.true_labels) != np.asarray(task.labels)


def test_wrong_labels_are_found(scores: dict[str, np.ndarray], wrong: np.ndarray) -> None:
    found = auc(scores["s"], wrong)
    assert auc(scores["wrong"], wrong) > auc(scores["loss_flat"], wrong) - 0.005
    assert found >= 0.97
    assert found > auc(scores["loss_trained"], wrong)


def test_the_right_labels_are_suggested(demo: Path, scores: dict[str, np.ndarray], wrong: np.ndarray) -> None:
    truth = np.asarray(task_of(settings.validate(settings.defaults()), Plan.load(Layout(demo).plan)).true_labels)
    assert (scores["suggested"] == truth)[wrong].mean() >= 0.85
    assert (scores["suggested"] == truth)[~wrong].mean() >= 0.9
    assert (scores["margin"] >= 0).all()
    assert (scores["otherwise"] == truth)[wrong].mean() >= 0.9
    assert (scores["otherwise"] != scores["given"]).all()
    assert ((scores["margin"] == 0) == (scores["suggested"] == scores["given"])).all()


def test_scores_and_answers_are_complete(demo: Path, scores: dict[str, np.ndarray]) -> None:
    plan = Plan.load(Layout(demo).plan)
    assert scores["row"].tolist() == list(range(plan.splits["train"].rows))
    assert all(
        np.isfinite(scores[name]).all() for name in ("s", "w", "loss_flat", "loss_trained", "self_influence", "wrong")
    )
    topk = read_table(Layout(demo).topk)
    keys = set(zip(topk["query"], topk["score"], topk["direction"], topk["rank"], strict=True))
    wanted = {
        (query, score, direction, rank)
        for query in range(plan.splits["query"].rows)
        for score, direction in (
            ("influence@trained", "top"), ("influence@trained", "bottom"), ("fvm@flat", "top"),
            ("cosine@trained", "top"), ("cosine@trained", "bottom"),
        )
        for rank in range(1, 11)
    }  # fmt: skip
    assert keys == wanted and len(topk["query"]) == len(wanted)


def test_the_report_stands_alone(demo: Path) -> None:
    page = Layout(demo).report.read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html>") and "</html>" in page
    assert 'src="http' not in page and "@import" not in page


def test_a_good_run_verifies(demo: Path) -> None:
    answer = ask("verify", demo)
    assert answer.code == 0, answer.out + answer.err
    assert " 0 faults" in answer.out


def test_nothing_is_left_to_do(demo: Path) -> None:
    assert "Nothing to be done" in succeed("run", "--workdir", demo, "-n")


@pytest.fixture(scope="module")
def without_table(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo without the answers made ahead: what is answered comes from the stores."""
    copy = Path(shutil.copytree(demo, tmp_path_factory.mktemp("copy") / "run"))
    shutil.rmtree(copy / "results" / "query")
    return copy


@pytest.mark.parametrize("bottom", [False, True])
@pytest.mark.parametrize("score", SCORES)
def test_answers_are_those_of_brute_force(without_table: Path, score: str, bottom: bool) -> None:
    expected_rows, expected = brute_force(without_table, score, "query", 17, k=7, bottom=bottom)
    options = ["--bottom"] if bottom else []
    for extra in ([], ["--exact"]):
        rows = ask(
            "query", without_table, "--row", "query:17", "--score", score, "-k", 7, "--json", *options, *extra
        ).rows
        assert [row["row"] for row in rows] == expected_rows
        assert np.allclose([row["score"] for row in rows], expected, rtol=1e-6)
        assert [row["rank"] for row in rows] == list(range(1, 8))
        assert {row["direction"] for row in rows} == {"bottom" if bottom else "top"}


def test_answers_made_ahead_are_the_live_ones(demo: Path) -> None:
    topk = read_table(Layout(demo).topk)
    for score, direction in (("influence@trained", "bottom"), ("fvm@flat", "top")):
        ahead = [
            row
            for row, *key in zip(topk["row"], topk["query"], topk["score"], topk["direction"], strict=True)
            if key == [40, score, direction]
        ]
        options = ["--bottom"] if direction == "bottom" else []
        live = ask("query", demo, "--row", "query:40", "--score", score, "--json", *options).rows
        assert [row["row"] for row in live] == ahead


def test_train_and_validation_rows_can_be_asked_about(demo: Path) -> None:
    for split in ("train", "validation"):
        expected, values = brute_force(demo, "influence@trained", split, 5, k=4, bottom=False)
        rows = ask("query", demo, "--row", f"{split}:5", "-k", 4, "--json").rows
        assert [row["row"] for row in rows] == expected
        assert np.allclose([row["score"] for row in rows], values, rtol=1e-6)
    assert rows[0].keys() >= {"query", "score_name", "direction", "rank", "row", "score", "label"}


def task_and_query(demo: Path, row: int) -> tuple[np.ndarray, int]:
    """Pixels and label of a query row."""
    pixels, label = row_set(task_of(settings.validate(settings.defaults()), Plan.load(Layout(demo).plan)), "query").row(
        row
    )
    return pixels.numpy(), int(label)


def test_a_file_is_answered_like_the_row_that_it_holds(demo: Path, tmp_path: Path) -> None:
    pixels, label = task_and_query(demo, 17)
    np.save(tmp_path / "point.npy", pixels)
    for score in ("influence@trained", "fvm@flat", "cosine@trained"):
        by_row = ask("query", demo, "--row", "query:17", "--score", score, "--json").rows
        by_file = ask(
            "query", demo, "--input", tmp_path / "point.npy", "--label", label, "--score", score, "--json"
        ).rows
        assert [row["row"] for row in by_file] == [row["row"] for row in by_row]
        # One row alone and the same row within a batch differ by float32 rounding, which codes may round apart.
        assert np.allclose([row["score"] for row in by_file], [row["score"] for row in by_row], rtol=0.02)


def test_a_file_without_label_gets_the_models_own(demo: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "point.npy", task_and_query(demo, 17)[0])
    answer = ask("query", demo, "--input", tmp_path / "point.npy")
    assert answer.code == 0, answer.err
    said = re.search(r"no --label given, so the model's own prediction '(\d)' is taken", answer.out)
    assert said is not None
    own = ask("query", demo, "--input", tmp_path / "point.npy", "--json").rows
    for label in range(10):
        told = ask("query", demo, "--input", tmp_path / "point.npy", "--label", label, "--json").rows
        assert ([row["score"] for row in told] == [row["score"] for row in own]) == (label == int(said[1]))


def test_a_row_is_answered_without_torch_and_at_once(demo: Path) -> None:
    blocked = "import sys; sys.modules['torch'] = None; from pipeline.cli import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", blocked, "query", str(demo), "--row", "query:17", "--json"]
    took = []
    for _ in range(3):  # the first one warms the page cache
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        took.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
    print(f"query by row: {min(took):.2f} s")
    assert min(took) < 2


def test_suspects_are_rows_of_the_table_in_order(demo: Path, scores: dict[str, np.ndarray]) -> None:
    rows = ask("suspects", demo, "--top", 5, "--json").rows
    best = np.argsort(-scores["wrong"], kind="stable")[:5]
    assert [row["row"] for row in rows] == best.tolist()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert [row["score"] for row in rows] == pytest.approx(scores["wrong"][best].tolist())
    assert [row["given"] for row in rows] == [str(label) for label in scores["given"][best]]
    assert set(rows[0]) == {"rank", "row", "score", "given", "suggested", "margin", "otherwise", "loss"}


def test_evaluate_judges_s_and_the_controls(demo: Path, scores: dict[str, np.ndarray], wrong: np.ndarray) -> None:
    out = succeed("evaluate", demo)
    assert "FVM, set level (S)" in out and "kNN on the inputs" in out and "suggesting the true label" in out
    table = read_table(Layout(demo).evaluation("mislabel"))
    methods = dict(zip(table["method"], table["auc"], strict=True))
    assert methods["FVM, set level (S)"] == pytest.approx(auc(scores["s"], wrong))
    assert any(table["control"])


def test_the_mean_of_single_points_is_w(demo: Path, scores: dict[str, np.ndarray]) -> None:
    """mean over validation rows of (u_m^T g)^2 = S - lambda |H^-1 g|^2 = W, with the stored vectors."""
    layout = Layout(demo)
    codes = open_codes(layout, Plan.load(layout.plan), "flat", "train").codes().astype(np.float64)
    preconditioner, _ = open_preconditioner(layout, "flat", "validation")
    single = np.square(codes @ open_vectors(layout, "flat", "validation").solved().T).mean(1)
    solved = preconditioner.solve(codes)
    difference = scores["s"] - preconditioner.damping * np.square(solved).sum(1)
    assert (np.abs(single - scores["w"]) <= 1e-6 * scores["s"]).all()
    assert (np.abs(difference - scores["w"]) <= 1e-6 * scores["s"]).all()
    assert (np.abs((codes * solved).sum(1) - scores["s"]) <= 1e-6 * scores["s"]).all()


def test_stored_vectors_solve_the_damped_system(demo: Path) -> None:
    for checkpoint in ("trained", "flat"):
        expected = query_vector(demo, f"influence@{checkpoint}", "query", 3)
        stored = open_vectors(Layout(demo), checkpoint, "query").solved(np.array([3]))[0]
        assert np.allclose(stored, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


def test_compressed_scores_rank_as_those_of_the_whole_gradient(demo: Path, scores: dict[str, np.ndarray]) -> None:
    """K = 2,048 in mixed codes against all 33,738 coordinates in float32, on every third train row."""
    layout = Layout(demo)
    plan = Plan.load(layout.plan)
    config = settings.validate(settings.defaults())
    task = task_of(config, plan)
    capturer = set_up(task, layout, config, "flat", lambda _, __, shapes: make("identity", shapes, 1, 0))

    def gradients(split: str, step: int) -> np.ndarray:
        rows = row_set(task, split)
        chosen = range(0, len(rows), step)
        parts = [chosen[i : i + 50] for i in range(0, len(chosen), 50)]
        return np.concatenate([capturer.capture(rows.batch(part), len(part)).codes for part in parts])

    whole = Preconditioner.fit(spectrum_of_roots(gradients("validation", 1).astype(np.float64), 300), damping=1.0)
    s = np.concatenate([whole.forms(part).s for part in np.array_split(gradients("train", 3), 10)])
    assert decoded(demo, "flat", "train").shape == (1000, 2048) and s.shape == (334,)
    rank: Any = spearmanr(s, scores["s"][::3]).statistic
    print(f"Spearman of S, compressed against whole: {rank:.5f}")
    assert rank >= 0.99
