"""Rows are appended, relabelled, moved and retired: only what is new is captured, and answers are those of a fresh store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.shards import Plan
from pipeline.steps.query import Questions, open_stores
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import Workers
from tests.workflow.runs import ROWS, Project, array_bytes, ask, edited, table
from tests.workflow.steps import compute, config_of, scores_of

pytestmark = pytest.mark.workflow

SCORES = ("s", "w", "loss_flat", "loss_trained", "norm_flat", "self_influence", "tracin", "classical")
SHARDS = [("gradients", "trained"), ("gradients", "flat"), ("candidates", "flat")]


def place(run: Path, kind: str, checkpoint: str, shard: str) -> Path:
    return run / "results" / kind / checkpoint / "train" / f"{shard}.zarr"


def counts(run: Path, shard: str) -> list[tuple[int, int]]:
    """(rows, copied) of the three stores of a train shard."""
    records = [read_manifest(place(run, *where, shard)).record for where in SHARDS]
    return [(record["rows"], record["copied"]) for record in records]


def stored(run: Path, kind: str, checkpoint: str, shard: str) -> dict[str, np.ndarray]:
    arrays = Arrays(place(run, kind, checkpoint, shard))
    return {name: arrays.read(name) for name in arrays.names()}


@contextmanager
def afresh(project: Project, directory: Path, data: np.ndarray, **sections: Any) -> Iterator[Path]:
    """A store of the data as they are now, with the checkpoints and projections of the project's run."""
    for name in ("checkpoints", "projection"):
        shutil.copytree(project.run / "results" / name, directory / "results" / name)
    with edited(project.data, array_bytes(data)):
        compute(directory, config_of(project.config, **sections))
        yield directory


def answers(run: Path, score: str, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Rows and scores of the best k of all query rows."""
    layout = Layout(run)
    plan = Plan.load(layout.plan)
    rows = np.arange(plan.splits["query"].rows)
    ranked = open_stores(layout, plan, score, Workers(1, 2**30)).answer(
        Questions(layout, plan, score).vectors("query", rows), k, False
    )
    return ranked.ids, ranked.scores


def close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Equal scores, but for what float32 batches of other rows round; int8 codes may round that to another step."""
    for name in SCORES:
        first, second = found[name].astype(float), expected[name].astype(float)
        scale = np.nanmax(np.abs(second))
        np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-4 * scale, equal_nan=True, err_msg=name)


def test_appended_rows_are_captured_alone(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    before = {where: stored(copy, *where, "00001") for where in SHARDS}
    untouched = {where: read_manifest(place(copy, *where, "00000")).digest for where in SHARDS}
    with edited(project.data, array_bytes(table(ROWS + 15))):
        compute(copy, config_of(project.config))
    assert counts(copy, "00001") == [(20, 10)] * 3 and counts(copy, "00002") == [(5, 0)] * 3
    for where in SHARDS:
        after = stored(copy, *where, "00001")
        assert all(np.array_equal(after[name][:10], values) for name, values in before[where].items())
        assert read_manifest(place(copy, *where, "00000")).digest == untouched[where]
    with afresh(project, tmp_path / "fresh", table(ROWS + 15)) as fresh:
        close(scores_of(copy), scores_of(fresh))
        for score in ("influence@trained", "fvm@flat", "cosine@trained"):
            assert np.array_equal(answers(copy, score)[0], answers(fresh, score)[0])


def test_a_relabelled_row_is_captured_alone(project: Project, tmp_path: Path) -> None:
    rows = table(ROWS)
    rows[5, 64] = (rows[5, 64] + 1) % 10
    copy = project.copy_of_run(tmp_path)
    before = {where: stored(copy, *where, "00000") for where in SHARDS}
    with edited(project.data, array_bytes(rows)):
        compute(copy, config_of(project.config))
    assert counts(copy, "00000") == [(20, 19)] * 3
    others = np.arange(20) != 5
    for where in SHARDS:
        after = stored(copy, *where, "00000")
        assert all(np.array_equal(after[name][others], values[others]) for name, values in before[where].items())
        assert after["code_hash"][5] != before[where]["code_hash"][5] or where[0] == "candidates"
    with afresh(project, tmp_path / "fresh", rows) as fresh:
        close(scores_of(copy), scores_of(fresh))


def test_deleting_a_row_captures_only_what_moves_into_another_shard(project: Project, tmp_path: Path) -> None:
    copy, rows = project.copy_of_run(tmp_path), np.delete(table(ROWS), 3, axis=0)
    with edited(project.data, array_bytes(rows)):
        compute(copy, config_of(project.config))
    assert counts(copy, "00000") == [(20, 19)] * 3 and counts(copy, "00001") == [(9, 9)] * 3
    with afresh(project, tmp_path / "fresh", rows) as fresh:
        close(scores_of(copy), scores_of(fresh))


def test_other_code_or_settings_copy_nothing(project: Project, tmp_path: Path) -> None:
    rows, source = table(ROWS + 2), project.task.read_bytes()
    for name, sections, edit in (("settings", {"gradients": {"batch_rows": 8}}, b""), ("code", {}, b"\n\nNEW = 1\n")):
        copy = project.copy_of_run(tmp_path / name)
        with edited(project.data, array_bytes(rows)), edited(project.task, source + edit):
            compute(copy, config_of(project.config, **sections))
        assert counts(copy, "00001") == [(12, 0)] * 3


def test_a_damaged_store_is_captured_again(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    chunk = place(copy, "gradients", "trained", "00001") / "codes/c/0/0"
    data = bytearray(chunk.read_bytes())
    data[7] ^= 1
    chunk.write_bytes(bytes(data))
    with edited(project.data, array_bytes(table(ROWS + 2))):
        compute(copy, config_of(project.config))
    assert counts(copy, "00001") == [(12, 0), (12, 10), (12, 10)]


GONE = [3, 13, 22]


@pytest.fixture(scope="module")
def without(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that never had the retired rows."""
    directory = tmp_path_factory.mktemp("without")
    with afresh(project, directory, np.delete(table(ROWS), GONE, axis=0)):
        return directory


def kept_rows() -> np.ndarray:
    return np.delete(np.arange(ROWS), GONE)


def test_retired_rows_are_gone_from_every_answer_at_once(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    suspects = [row["row"] for row in ask("suspects", copy, "--top", 10, "--json").rows]
    hits = [row["row"] for row in ask("query", copy, "--row", "query:3", "-k", 8, "--json").rows]
    answer = ask("retire", copy, "--rows", f"{suspects[0]},{hits[0]}-{hits[0]},{hits[1]}", "--json")
    gone = {suspects[0], hits[0], hits[1]}
    assert answer.rows == [{"retired": len(gone), "retired in all": len(gone)}]
    for score in ("influence", "cosine", "fvm"):
        for extra in ([], ["--exact"], ["--bottom"]):
            found = ask("query", copy, "--row", "query:3", "--score", score, "-k", 20, "--json", *extra).rows
            assert len(found) == 20 and not gone & {row["row"] for row in found}
    left = [row["row"] for row in ask("suspects", copy, "--top", 8, "--json").rows]
    assert left == [row for row in suspects if row not in gone][:8]
    assert "the curvature still counts" in ask("query", copy, "--row", "query:3").out
    assert "not retired" in ask("query", copy, "--row", f"train:{suspects[0]}").complaint
    assert {row["row"] for row in ask("retire", copy, "--json").rows} == gone
    ask("retire", copy, "--restore")
    again = [row["row"] for row in ask("query", copy, "--row", "query:3", "-k", 8, "--json").rows]
    assert again == hits and not (copy / "retired.json").exists()


@pytest.mark.parametrize("compacted", [False, True])
def test_retired_rows_leave_what_a_store_without_them_has(
    project: Project, tmp_path: Path, without: Path, compacted: bool
) -> None:
    copy = project.copy_of_run(tmp_path)
    ask("retire", copy, "--rows", ",".join(map(str, GONE)))
    if compacted:
        from pipeline.steps.retire import compact

        compact(Layout(copy))
    compute(copy, config_of(project.config))
    sizes = [(18, 18), (9, 9)] if compacted else [(20, 20), (10, 10)]
    for shard, size in zip(("00000", "00001"), sizes, strict=True):
        assert counts(copy, shard) == [size] * 3  # nothing was captured
    kept, scores, expected = kept_rows(), scores_of(copy), scores_of(without)
    assert (scores["flag"][GONE] == 2).all() and (scores["flag"][kept] == 0).all()
    assert all(np.isnan(scores[name][GONE].astype(float)).all() for name in SCORES)
    close({name: scores[name][kept] for name in SCORES}, expected)
    for score in ("influence@trained", "fvm@flat", "cosine@trained"):
        found, wanted = answers(copy, score), answers(without, score)
        assert np.array_equal(found[0], kept[wanted[0]])
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-3)


def test_a_row_that_is_restored_after_compaction_is_captured_again(project: Project, tmp_path: Path) -> None:
    from pipeline.steps.retire import compact, restore

    copy = project.copy_of_run(tmp_path)
    before = scores_of(copy)
    ask("retire", copy, "--rows", "3,22")
    compact(Layout(copy))
    compute(copy, config_of(project.config))
    restore(Layout(copy), [3])
    compute(copy, config_of(project.config))
    assert counts(copy, "00000") == [(20, 19)] * 3 and counts(copy, "00001") == [(9, 9)] * 3
    restore(Layout(copy), None)
    compute(copy, config_of(project.config))
    close(scores_of(copy), before)


def test_retired_rows_follow_their_content(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    ask("retire", copy, "--rows", "3,7")
    rows = table(ROWS)[::-1].copy()
    rows[ROWS - 1 - 7, 64] = (rows[ROWS - 1 - 7, 64] + 1) % 10  # the label of what was row 7 is mended
    with edited(project.data, array_bytes(rows)):
        compute(copy, config_of(project.config))
    assert Plan.load(Layout(copy).plan).retired == (ROWS - 1 - 3,)
    assert [row["in the data"] for row in ask("retire", copy, "--json").rows] == [True, False]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--rows", "30"], "expected train rows from 0 to 29, got 30"),
        (["--rows", "0-29"], "expected at least one train row that is not retired, got all 30"),
        (["--rows", "3", "--suspects", "2"], "expected one of --rows, --file and --suspects, got several"),
        (["--rows", "3", "--restore"], "expected retired rows to restore, got row 3, which is not"),
        (["--file", "nowhere.txt"], "expected a text file with rows at nowhere.txt"),
    ],
)
def test_what_cannot_be_retired_is_refused(
    project: Project, tmp_path: Path, options: list[str], complaint: str
) -> None:
    copy = project.copy_of_run(tmp_path)
    before = (copy / "results/prepare/plan.json").read_bytes()
    assert complaint in ask("retire", copy, *options).complaint
    assert (copy / "results/prepare/plan.json").read_bytes() == before and not (copy / "retired.json").exists()
