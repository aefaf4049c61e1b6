"""Stability of a run made stage by stage: against dense rankings in float64, and of two runs that share some rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import nn

from pipeline import config as settings
from pipeline.core.agreement import overlaps
from pipeline.errors import ConfigError, DataError
from pipeline.shards import Plan
from pipeline.steps import curvature, flatten, gradients, prepare, projection, stability, train, vectors
from pipeline.steps.against import compare, differences
from pipeline.steps.job import Job
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.tables import write_table
from tests.minima import write_flat

SECTIONS: dict[str, Any] = {
    "task": {"class": "digits", "options": {"train_size": 60, "validation_size": 20, "query_size": 12, "epochs": 4,
                                            "hidden": [24], "noise_rate": 0.1}},
    "flatten": {"strength": 0.2, "steps": 5, "watch": False},
    "sharpness": {"draws": 2, "iterations": 2, "rows": 10},
    "query": {"k": 7},
    "stability": {"dampings": [0.001, 1.0, 50.0], "suspects_share": 0.2},
}  # fmt: skip


def job(run: Path, stage: str, **sections: Any) -> Job:
    values = settings.merge(settings.merge(settings.defaults(), SECTIONS), sections)
    return Job(stage, Layout(run), settings.validate(values), lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Job:
    run = tmp_path_factory.mktemp("stability")
    prepare.run(job(run, "prepare"))
    train.run(job(run, "train"))
    flatten.run(job(run, "flatten"))
    for checkpoint, split in settings.CURVATURE_SPLIT.items():
        projection.run(job(run, "projection"), checkpoint)
        for each in settings.SPLITS:
            gradients.run(job(run, "gradients"), checkpoint, each, "00000")
        curvature.run(job(run, "curvature"), checkpoint, split)
        vectors.run(job(run, "vectors"), checkpoint, "query")
    stability.run(job(run, "stability"))
    return job(run, "stability")


def codes_of(made: Job, checkpoint: str, split: str) -> np.ndarray:
    return open_codes(made.layout, made.plan(), checkpoint, split).codes().astype(np.float64)


def inverse(made: Job, checkpoint: str, damping: float) -> np.ndarray:
    """(C + lambda)^-1, dense."""
    rows = codes_of(made, checkpoint, settings.CURVATURE_SPLIT[checkpoint])
    matrix = rows.T @ rows / len(rows)
    return np.linalg.inv(matrix + damping * np.trace(matrix) / len(rows) * np.eye(len(matrix)))


def row_of(made: Job, **wanted: Any) -> dict[str, Any]:
    rows = read_manifest(made.layout.evaluation("stability")).record["rows"]
    (row,) = [row for row in rows if wanted.items() <= row.items()]
    return row


@pytest.mark.parametrize(("answers", "score", "checkpoint", "sign"), [
    ("top rows of queries", "influence", "trained", 1), ("bottom rows of queries", "influence", "trained", -1),
    ("top rows of queries", "influence", "flat", 1), ("top rows of queries", "FVM, single point", "flat", 0),
])  # fmt: skip
@pytest.mark.parametrize("damping", [0.001, 50.0])
def test_the_best_rows_of_queries_agree_as_in_a_dense_ranking(made, answers, score, checkpoint, sign, damping):
    codes, queries = (codes_of(made, checkpoint, split) for split in ("train", "query"))
    best = []
    for each in (1.0, damping):
        scores = queries @ inverse(made, checkpoint, each) @ codes.T
        best.append(np.argsort(-(sign * scores if sign else scores**2), axis=1)[:, :7])
    shares = [len({*a.tolist()} & {*b.tolist()}) / 7 for a, b in zip(*best, strict=True)]
    row = row_of(made, answers=answers, score=score, checkpoint=checkpoint, changed=f"damping 1 to {damping:g}")
    assert row["overlap"] == pytest.approx(np.mean(shares))
    assert row["error"] == pytest.approx(np.std(shares, ddof=1) / np.sqrt(12))
    assert row["jaccard"] == pytest.approx(
        np.mean([len({*a} & {*b}) / len({*a} | {*b}) for a, b in zip(*best, strict=True)])
    )
    assert (row["k"], row["lists"], row["chance"], row["spearman"]) == (7, 12, pytest.approx(7 / 60), None)


@pytest.mark.parametrize(("score", "checkpoint"), [("FVM, set level (S)", "flat"), ("self-influence", "trained")])
def test_the_most_suspicious_rows_agree_as_in_a_dense_ranking(made, score, checkpoint):
    codes = codes_of(made, checkpoint, "train")
    scores = [np.einsum("nk,kl,nl->n", codes, inverse(made, checkpoint, each), codes) for each in (1.0, 0.001)]
    best = [set(np.argsort(-each)[:12].tolist()) for each in scores]
    row = row_of(made, answers="suspects", score=score, changed="damping 1 to 0.001")
    assert row["overlap"] == pytest.approx(len(best[0] & best[1]) / 12)
    assert row["spearman"] == pytest.approx(spearmanr(*scores).statistic)
    assert (row["k"], row["lists"], row["error"]) == (12, 1, None)


def test_the_run_s_own_damping_is_compared_with_nothing(made):
    rows = read_manifest(made.layout.evaluation("stability")).record["rows"]
    assert {row["changed"] for row in rows} == {"damping 1 to 0.001", "damping 1 to 50"}
    assert made.layout.evaluation("stability").with_suffix(".md").read_text().count("\n| ") == len(rows) + 2


def test_a_curvature_without_damping_is_refused(made, tmp_path):
    identity = {"curvature": {"kind": "identity", "damping": 1.0}, "rows": 1}
    other = job(tmp_path, "curvature")
    with other.writing(other.layout.curvature("trained", "train"), "curvature", identity) as (path, _):
        write_arrays(path, {"values": np.ones(3), "damping": np.zeros(1)})
    with pytest.raises(ConfigError, match="expected a curvature.kind that is damped for --stability, got identity"):
        stability.dampings(other.layout, "trained", [1.0])


CONTENT = np.arange(8 * 16, dtype=np.uint8).reshape(8, 16)


def answered(
    run: Path, train: list[int], queries: list[int], topk: list[list[int]], s: list[float], method: str = "sam",
    **config: Any,
) -> Job:  # fmt: skip
    """A run of rows with some of the contents, whose queries have been answered by rows in an order."""
    made = job(run, "stability")
    write_flat(made, nn.Linear(1, 1), method)
    plan = Plan({}, (), True, True, 8, "", (), {}, {})
    made.layout.plan.parent.mkdir(parents=True)
    made.layout.plan.write_text(plan.save())
    made.layout.config.write_text(f"query: {config or {'k': 3}}")
    with made.writing(made.layout.hashes, "rows", {}) as (path, _):
        write_arrays(path, {"train": CONTENT[train], "query": CONTENT[queries]})
    columns: dict[str, list[Any]] = {"query": [], "score": [], "direction": [], "row": []}
    for query, rows in enumerate(topk):
        for row in rows:
            for name, value in zip(columns, (query, "fvm@flat", "top", row), strict=True):
                columns[name].append(value)
    with made.writing(made.layout.topk, "query", {"made": str(run)}) as (path, _):
        write_table(path, columns, {})
    with made.writing(made.layout.scores, "scores", {"estimators": ["s"], "posterior": None}) as (path, _):
        write_table(path, {"s": s}, {})
    return made


def test_runs_are_compared_row_for_row_by_content(tmp_path):
    one = answered(tmp_path / "one", [0, 1, 2, 3, 4], [6, 7], [[0, 2, 1], [4, 3, 2]], [5.0, 4, 3, 2, 1])
    # The same rows in another order, one of them (0) missing and one (5) new; queries change places.
    other = answered(tmp_path / "other", [4, 3, 5, 2, 1], [7, 6], [[0, 1, 3], [4, 2, 0]], [1.0, 2, 9, 3, 0.5], k=4)
    queries, suspects = compare(one, [other.layout])
    # Of query 6: [2, 1] here (0 is not there) and [1, 4] there (5 is not here); of query 7: [4, 3, 2] in both.
    assert queries["overlap"] == pytest.approx((1 / 2 + 1) / 2) and queries["k"] == 2.5
    assert (queries["against"], queries["chance"], queries["lists"]) == ("other", 2.5 / 4, 2)
    # Of rows 1, 2, 3, 4: 4, 3, 2, 1 here and .5, 3, 2, 1 there; the most suspicious of four is another one.
    assert (suspects["overlap"], suspects["k"]) == (0, 1)
    assert suspects["spearman"] == pytest.approx(spearmanr([4, 3, 2, 1], [0.5, 3, 2, 1]).statistic)
    assert differences(one.layout, other.layout) == ["query.k"]


def test_a_run_agrees_with_itself(tmp_path):
    one = answered(tmp_path / "one", [0, 1, 2], [6], [[0, 1, 2]], [5.0, 4, 3])
    assert [row["overlap"] for row in compare(one, [one.layout])] == [1, 1]
    assert differences(one.layout, one.layout) == []


def test_fvm_at_a_plain_minimum_is_called_vm(made, tmp_path):
    plain = job(Path(shutil.copytree(made.layout.run, tmp_path / "copy")), "stability")
    write_flat(plain, nn.Linear(1, 1), "plain")
    stability.run(plain)
    rows = read_manifest(plain.layout.evaluation("stability")).record["rows"]
    assert {row["score"] for row in rows if row["checkpoint"] == "flat"} == {
        "influence", "VM, single point", "VM, set level (S)", "VM, W"}  # fmt: skip
    one, other = (
        answered(tmp_path / name, [0, 1, 2], [6], [[0, 1, 2]], [5.0, 4, 3], name) for name in ("plain", "sam")
    )
    assert [row["score"] for row in compare(one, [other.layout])] == ["VM, single point", "VM, set level (S)"]
    assert [row["score"] for row in compare(other, [one.layout])] == ["FVM, single point", "FVM, set level (S)"]


def test_runs_of_other_rows_are_refused(tmp_path):
    one = answered(tmp_path / "one", [0, 1], [6], [[0]], [5.0, 4])
    other = answered(tmp_path / "other", [2, 3], [6], [[0]], [5.0, 4])
    with pytest.raises(DataError, match="expected a run that shares train rows with .*one, input and label, got none"):
        compare(one, [other.layout])


def test_overlaps_take_lists_of_any_length():
    assert overlaps([np.array([1, 2]), np.array([3])], [np.array([2, 1]), np.array([4])]).tolist() == [1, 0]
