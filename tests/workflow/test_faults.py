"""Damage is named by `lowland verify` and refused by what would have answered from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from pipeline.storage import indexes
from pipeline.storage.artefact import create, read_manifest
from pipeline.storage.layout import Layout
from tests.workflow.runs import ROWS, Project, artefacts, ask, planned
from tests.workflow.steps import compute, config_of

pytestmark = pytest.mark.workflow

SHARD = "results/gradients/trained/train/00000"


def flip(file: Path) -> None:
    """Another byte in the middle of a file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(bytes(data))


def cut(file: Path) -> None:
    """Only the first half of a file."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@dataclass(frozen=True)
class Damage:
    """What is done to which file, what verify names, and which question meets it."""

    file: str
    harm: Callable[[Path], None]
    question: tuple[str, ...]


EXACT = ("query", "{run}", "--row", "query:3", "--exact")
BY_INDEX = ("query", "{run}", "--row", "query:3")
SUSPECTS = ("suspects", "{run}", "--top", "3")

DAMAGES = {
    "a byte of a gradient chunk": Damage(f"{SHARD}.zarr/codes/c/0/0", flip, EXACT),
    "a gradient chunk cut short": Damage(f"{SHARD}.zarr/codes/c/0/0", cut, BY_INDEX),
    "a gradient chunk deleted": Damage(f"{SHARD}.zarr/codes/c/0/0", Path.unlink, BY_INDEX),
    "a byte of the metadata": Damage(f"{SHARD}.zarr/codes/zarr.json", flip, BY_INDEX),
    "a byte of a manifest": Damage(f"{SHARD}.json", flip, BY_INDEX),
    "a manifest cut short": Damage(f"{SHARD}.json", cut, BY_INDEX),
    "a byte of the index": Damage("results/index/trained-inner.faiss/0", flip, BY_INDEX),
    "the index cut short": Damage("results/index/trained-inner.faiss/0", cut, BY_INDEX),
    "a byte of the scores": Damage("results/scores/scores.parquet", flip, SUSPECTS),
    "the scores deleted": Damage("results/scores/scores.parquet", Path.unlink, SUSPECTS),
    "a chunk of the vectors deleted": Damage("results/vectors/trained-query.zarr/solved/c/0/0", Path.unlink, BY_INDEX),
    "a byte of the vectors": Damage("results/vectors/trained-query.zarr/solved/c/0/0", flip, BY_INDEX),
    "a byte of the column scales": Damage("results/projection/trained.zarr/column_scale/c/0", flip, BY_INDEX),
    "the plan cut short": Damage("results/prepare/plan.json", cut, BY_INDEX),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_and_refused(name: str, project: Project, tmp_path: Path) -> None:
    damage, copy = DAMAGES[name], project.copy_of_run(tmp_path)
    damage.harm(copy / damage.file)
    refused = ask(*(word.format(run=copy) for word in damage.question)).complaint
    assert "expected" in refused and "lowland" in refused
    answer = ask("verify", copy)
    answer.complaint  # noqa: B018 - it checks how the command ended
    stem = str(copy / damage.file).split(".zarr")[0].split(".json")[0]
    assert stem in answer.out + answer.err


def test_content_without_a_manifest_is_named(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    (copy / f"{SHARD}.json").unlink()
    answer = ask("verify", copy)
    assert "faults" in answer.complaint
    assert f"{SHARD}.zarr" in answer.out and "expected a manifest beside it" in answer.out
    assert "got nothing there" in ask("query", copy, "--row", "query:3").complaint


@pytest.fixture(scope="module")
def other(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of the same rows, at the same checkpoints, captured otherwise."""
    directory = tmp_path_factory.mktemp("other")
    shutil.copytree(project.run / "results/checkpoints", directory / "results/checkpoints")
    compute(directory, config_of(project.config, gradients={"batch_rows": 4}, curvature={"damping": 0.1}))
    return directory


def transplant(source: Path, run: Path, name: str, to: str | None = None) -> None:
    """An artefact of another run in the place of one's own."""
    to = to or name
    shutil.rmtree(run / "results" / f"{to}.zarr", ignore_errors=True)
    shutil.copytree(source / "results" / f"{name}.zarr", run / "results" / f"{to}.zarr")
    if to == name:
        shutil.copy(source / "results" / f"{name}.json", run / "results" / f"{name}.json")
        return
    manifest = read_manifest(source / "results" / f"{name}.zarr")
    shutil.rmtree(run / "results" / f"{to}.zarr")
    with create(run / "results" / f"{to}.zarr", manifest.kind, manifest.identity, manifest.record) as place:
        shutil.copytree(source / "results" / f"{name}.zarr", place)


def test_a_shard_of_another_run_is_refused(project: Project, tmp_path: Path, other: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    transplant(other, copy, "gradients/trained/train/00001")
    complaint = ask("query", copy, "--row", "query:3").complaint
    assert "expected stores of one provenance" in complaint
    assert "00000.zarr and " in complaint and "00001.zarr, which differ in gradients, projection" in complaint
    answer = ask("verify", copy)
    assert "faults" in answer.complaint and "which differ in gradients, projection" in answer.out


def test_all_shards_of_another_run_are_refused(project: Project, tmp_path: Path, other: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    for shard in ("00000", "00001"):
        transplant(other, copy, f"gradients/trained/train/{shard}")
    assert "made with the projection at" in ask("query", copy, "--row", "query:3").complaint
    assert "faults" in ask("verify", copy).complaint


@pytest.mark.parametrize("name", ["vectors/trained-query", "curvature/trained-train"])
def test_vectors_and_curvature_must_belong_together(name: str, project: Project, tmp_path: Path, other: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    transplant(other, copy, name)
    assert "run `lowland run`" in ask("query", copy, "--row", "query:3").complaint
    assert "faults" in ask("verify", copy).complaint


def test_a_shard_of_other_rows_is_refused(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    shutil.rmtree(copy / "results/gradients/trained/train/00001.zarr")
    for end in (".zarr", ".json"):
        source, target = copy / f"{SHARD}{end}", copy / f"results/gradients/trained/train/00001{end}"
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    assert "expected rows 20 to 29 as planned" in ask("query", copy, "--row", "query:3").complaint
    assert "faults" in ask("verify", copy).complaint


@pytest.mark.parametrize("name", DAMAGES)
def test_a_repair_removes_what_has_a_fault_and_nothing_else(name: str, project: Project, tmp_path: Path) -> None:
    damage, copy = DAMAGES[name], project.copy_of_run(tmp_path)
    before = artefacts(copy) | {"prepare/plan"}
    damage.harm(copy / damage.file)
    stem = damage.file.removeprefix("results/").split(".zarr")[0].rsplit(".", 1)[0]
    answer = ask("verify", copy, "--repair", "--json")
    assert answer.rows and all(row["removed"] for row in answer.rows)
    assert {row["artefact"].split(".")[0] for row in answer.rows} == {str(copy / "results" / stem)}
    assert before - artefacts(copy) - {"prepare/plan"} == {stem} - {"prepare/plan"}
    assert not list((copy / "results" / stem).parent.glob(f"{Path(stem).name}.*"))


def test_a_repaired_run_makes_again_what_was_removed(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    flip(copy / f"{SHARD}.zarr/codes/c/0/0")
    assert ask("verify", copy, "--repair").code == 0
    made = planned(copy)
    captured = {name for name in made if name.startswith(("checkpoints", "projection", "gradients", "candidates"))}
    assert captured == {SHARD.removeprefix("results/")}


def test_a_shard_that_is_no_longer_planned_is_named(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    transplant(project.run, copy, "gradients/trained/train/00001", "gradients/trained/train/00002")
    answer = ask("verify", copy)
    assert "faults" in answer.complaint and "got one of rows that are no more" in answer.out


def test_an_index_of_other_vectors_is_named(project: Project, tmp_path: Path) -> None:
    """Its checksum is right, and so is what it says of itself."""
    copy = project.copy_of_run(tmp_path)
    layout = Layout(copy)
    for metric, change in (("inner", 1), ("cosine", 0)):
        path = layout.index("trained", metric)
        manifest, rows = read_manifest(path), indexes.load(path, 1).vectors(np.arange(ROWS))
        rows[ROWS - 1] += change
        ids = np.arange(ROWS) if change else np.arange(ROWS)[::-1] + 1
        made = indexes.build("Flat", rows.shape[1], [(ids, rows)], lambda kept=rows: kept, 1)
        with create(path, "index", manifest.identity, manifest.record) as place:
            made.save(place)
    answer = ask("verify", copy)
    assert "faults" in answer.complaint
    assert f"expected the codes of the stores in it, got other vectors, of row {ROWS - 1} for one" in answer.out
    assert f"expected the {ROWS} finite rows of the stores in it, got {ROWS} others" in answer.out
