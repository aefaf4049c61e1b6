"""Rows are appended, relabelled, moved and retired: only what is new is captured, and answers are those of a fresh store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.core.curvature import spectrum_of_sum
from pipeline.core.influence import unit
from pipeline.core.preconditioner import Preconditioner
from pipeline.shards import Plan
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.query import Questions, open_stores
from pipeline.steps.stores import open_codes
from pipeline.storage import indexes
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import Workers
from tests.workflow.runs import ROWS, Project, array_bytes, ask, edited, planned, table
from tests.workflow.steps import compute, config_of, scores_of, stage

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


def computed(run: Path) -> tuple[int, int]:
    """Of how many rows S was computed, and S under every label: not taken over from the former table."""
    record = read_manifest(Layout(run).scores).record
    return record["formed"], record["relabelled"]


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
        found, expected = scores_of(copy), scores_of(fresh)
        close(found, expected)
        np.testing.assert_allclose(found["s_by_label"], expected["s_by_label"], rtol=1e-3)
        assert np.array_equal(found["suggested"], expected["suggested"])
        assert computed(copy) == (15, 15) and computed(fresh) == (ROWS + 15, ROWS + 15)
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
    assert computed(copy)[0] == 1
    with afresh(project, tmp_path / "fresh", rows) as fresh:
        close(scores_of(copy), scores_of(fresh))


def test_the_plan_names_the_jobs_of_a_dry_run_and_what_they_take(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    before = (copy / "results/prepare/plan.json").read_bytes()
    with edited(project.data, array_bytes(table(ROWS + 5))):
        said, made = ask("plan", copy, "--json").rows, planned(copy)
        text = ask("plan", copy).out
    assert (copy / "results/prepare/plan.json").read_bytes() == before
    jobs = {job["artefact"]: job for job in said["jobs"]}
    assert set(jobs) == made and said["total"]["jobs"] == len(made)
    for where in SHARDS:
        job = jobs["/".join((*where, "train", "00001"))]
        assert (job["rows"], job["copied"], job["basis"]) == (5, 10, "measured")
        assert job["why"] == ["rows 20-35, before 20-30"]
        assert 0 < job["seconds"] < 600 and job["bytes"] > 0 and job["memory_mb"] > 0
    assert jobs["scores/scores"]["why"][0].startswith("follows from ")
    assert "gradients: rows 20-35, before 20-30" in text and "rows captured" in text
    assert ask("plan", copy, "--json").rows["jobs"] == []


def test_a_plan_of_a_new_run_counts_operations(project: Project, tmp_path: Path) -> None:
    said = ask("plan", tmp_path / "new", "-c", project.config, "--json").rows
    bases = {job["stage"]: job["basis"] for job in said["jobs"]}
    assert (bases["gradients"], bases["candidates"], bases["flatten"]) == ("counted", "counted", "none")
    assert said["total"]["unknown"] > 0 and not (tmp_path / "new" / "results" / "prepare").exists()


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


def test_the_index_takes_new_rows_and_gives_old_ones_back(project: Project, tmp_path: Path) -> None:
    copy, rows = project.copy_of_run(tmp_path), table(ROWS + 15)
    rows[5, 64] = (rows[5, 64] + 1) % 10
    layout, config = Layout(copy), config_of(project.config)
    with edited(project.data, array_bytes(rows)):
        compute(copy, config)
        for checkpoint, metric in (("trained", "inner"), ("trained", "cosine"), ("flat", "inner")):
            stage(layout, config, "index", checkpoint=checkpoint, metric=metric)
            record = read_manifest(layout.index(checkpoint, metric)).record
            assert (record["added"], record["removed"], record["trained_rows"]) == (16, 1, ROWS)
            assert record["changed_since_recall"] == 0  # measured again: half of the rows are new
            codes = open_codes(layout, Plan.load(layout.plan), checkpoint, "train")
            kept = indexes.load(layout.index(checkpoint, metric), 1).vectors(np.arange(ROWS + 15))
            expected = unit(codes.codes()).astype(np.float32) if metric == "cosine" else codes.codes()
            assert np.array_equal(kept, expected)
        probes = config_of(project.config, index={"probes": 3})
        stage(layout, probes, "index", checkpoint="trained", metric="inner")
        record = read_manifest(layout.index("trained", "inner")).record
        assert (record["added"], record["removed"]) == (0, 0)  # nothing is built for another way to search
        other = config_of(project.config, index={"factory": "SQ8"})
        stage(layout, other, "index", checkpoint="trained", metric="inner")
        assert read_manifest(layout.index("trained", "inner")).record["added"] is None


def test_sums_of_train_rows_are_added_to(project: Project, tmp_path: Path) -> None:
    """K = 8, so that there are more rows than coordinates."""
    small, layout = {"projection": {"dimension": 8}}, Layout(tmp_path / "run")
    shutil.copytree(project.run / "results/checkpoints", layout.results / "checkpoints")
    config = config_of(project.config, **small)
    compute(layout.run, config)
    assert read_manifest(layout.curvature("trained", "train")).record["summed"] == ROWS
    with edited(project.data, array_bytes(table(ROWS + 15))):
        compute(layout.run, config)
        assert read_manifest(layout.curvature("trained", "train")).record["summed"] == 15
        assert read_manifest(layout.curvature("flat", "validation")).record["summed"] == 0
        ask("retire", layout.run, "--rows", "3,13")
        compute(layout.run, config)
        assert read_manifest(layout.curvature("trained", "train")).record["summed"] == 0
        counted, plan = np.delete(np.arange(ROWS + 15), [3, 13]), Plan.load(layout.plan)
        codes = open_codes(layout, plan, "trained", "train").codes().astype(np.float64)[counted]
        found, _ = open_preconditioner(layout, "trained", "train")
        expected = Preconditioner.fit(spectrum_of_sum(codes.T @ codes, len(codes)), damping=1.0)
        assert found.damping == pytest.approx(expected.damping, rel=1e-12)
        np.testing.assert_allclose(found.solve(codes), expected.solve(codes), rtol=1e-9, atol=1e-9)
        another = config_of(project.config, **small, curvature={"damping": 0.1})
        stage(layout, another, "curvature", checkpoint="trained", split="train")
        assert read_manifest(layout.curvature("trained", "train")).record["summed"] == 0


def test_scores_under_every_label_follow_another_curvature_and_other_code(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, another = project.copy_of_run(tmp_path), config_of(project.config, curvature={"damping": 0.1})
    before, found = scores_of(copy), compute(copy, another)
    assert computed(copy) == (ROWS, ROWS)
    assert (found["s_by_label"] > before["s_by_label"]).mean() > 0.9  # less is damped
    np.testing.assert_allclose(found["s_by_label"][np.arange(ROWS), found["given"]], found["s"], rtol=1e-3)
    assert np.array_equal(compute(copy, another)["s_by_label"], found["s_by_label"])
    assert computed(copy) == (0, 0)
    monkeypatch.setattr("pipeline.steps.former.stands_for", lambda *_: False)
    stage(Layout(copy), another, "scores")
    assert computed(copy) == (ROWS, ROWS)


def test_a_score_that_the_table_lacks_is_computed_for_all_rows(project: Project, tmp_path: Path) -> None:
    copy, fewer = project.copy_of_run(tmp_path), config_of(project.config, scores={"estimators": ["self_influence"]})
    before = scores_of(copy)
    assert "w" not in compute(copy, fewer) and computed(copy) == (0, 0)
    close(compute(copy, config_of(project.config)), before)
    assert computed(copy) == (ROWS, 0)


def test_new_query_rows_need_only_their_own(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    layout = Layout(copy)
    before = {name: read_manifest(layout.vectors(name, "validation")).digest for name in ("trained", "flat")}
    for queries, known in ((8, 8), (12, 8)):
        compute(copy, config_of(project.config, task={"data": {"queries": queries}}))
        for checkpoint in ("trained", "flat"):
            for path in (layout.gradients(checkpoint, "query", "00000"), layout.vectors(checkpoint, "query")):
                record = read_manifest(path).record
                assert (record["rows"], record["copied"]) == (queries, known)
    assert {name: read_manifest(layout.vectors(name, "validation")).digest for name in before} == before
    ids, scores = answers(copy, "influence@trained")
    wanted = answers(project.run, "influence@trained")
    assert np.array_equal(ids, wanted[0])
    np.testing.assert_allclose(scores, wanted[1], rtol=1e-3)


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
    assert np.isnan(scores["s_by_label"][GONE]).all() and (scores["predicted"][GONE] == -1).all()
    np.testing.assert_allclose(scores["s_by_label"][kept], expected["s_by_label"], rtol=1e-3)
    assert computed(copy) == (0, 0) and np.array_equal(scores["s"][kept], scores_of(project.run)["s"][kept])
    for score in ("influence@trained", "fvm@flat", "cosine@trained"):
        found, wanted = answers(copy, score), answers(without, score)
        assert np.array_equal(found[0], kept[wanted[0]])
        np.testing.assert_allclose(found[1], wanted[1], rtol=1e-3)


def test_a_row_that_is_restored_is_scored_again(project: Project, tmp_path: Path) -> None:
    from pipeline.steps.retire import restore

    copy = project.copy_of_run(tmp_path)
    before = scores_of(copy)
    ask("retire", copy, "--rows", "3,22")
    compute(copy, config_of(project.config))
    restore(Layout(copy), None)
    close(compute(copy, config_of(project.config)), before)
    assert computed(copy) == (2, 2)


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
