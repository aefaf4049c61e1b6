"""What reruns when something changes: exactly what depends on it. Asked by dry runs, of copies of one finished run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.workflow.runs import (
    ROWS,
    Project,
    array_bytes,
    artefacts,
    ask,
    copy_of_code,
    edited,
    plainly_planned,
    planned,
    table,
)

pytestmark = pytest.mark.workflow

Chosen = Callable[[str], bool]


def stages(*names: str) -> Chosen:
    """All artefacts of some stages."""
    return lambda artefact: artefact.split("/")[0] in names


ANSWERS = stages("posterior", "scores", "query", "evaluation", "report")


def from_posterior(artefact: str) -> bool:
    """The posterior and what follows from it; no query does."""
    return artefact.startswith(("posterior", "scores", "evaluation", "report"))


FROM_CURVATURE = stages("curvature", "vectors", "index", "scores", "query", "evaluation", "report")


def of_train_rows(artefact: str) -> bool:
    """What all train rows are part of; curvature of the validation rows and the vectors at flat know nothing of them."""
    if artefact in ("curvature/flat-validation", "vectors/flat-validation", "vectors/flat-query"):
        return False
    return FROM_CURVATURE(artefact) or artefact == "posterior/posterior"


def only_at(checkpoint: str) -> Chosen:
    """All artefacts at a checkpoint, but for the checkpoint itself."""
    return lambda artefact: checkpoint in artefact and not artefact.startswith("checkpoints")


def last_shard(artefact: str) -> bool:
    """Gradients of the train rows from 20 on."""
    return artefact.startswith(("gradients", "candidates")) and artefact.endswith("train/00001")


def everything(_: str) -> bool:
    return True


CONFIG: dict[str, tuple[dict[str, Any], Chosen]] = {
    "seed": ({"seed": 7}, everything),
    "flatten.steps": (
        {"flatten": {"steps": 21}},
        lambda artefact: (
            artefact in ("checkpoints/flat", "checkpoints/folds") or only_at("flat")(artefact) or ANSWERS(artefact)
        ),
    ),
    "posterior.landmarks": ({"posterior": {"landmarks": 50}}, from_posterior),
    "folds.count": (
        {"folds": {"count": 3}},
        lambda artefact: artefact == "checkpoints/folds" or from_posterior(artefact),
    ),
    "suspects.score": ({"suspects": {"score": "s"}}, stages("report")),
    "projection.dimension": (
        {"projection": {"dimension": 32}},
        lambda artefact: not artefact.startswith(("checkpoints", "posterior")),
    ),
    "projection.basis": (
        {"projection": {"basis": 8}},
        lambda artefact: not artefact.startswith(("checkpoints", "posterior")),
    ),
    "gradients.codec": (
        {"gradients": {"codec": "bf16"}},
        lambda artefact: not artefact.startswith(("checkpoints", "posterior")),
    ),
    "curvature.damping": ({"curvature": {"damping": 0.5}}, FROM_CURVATURE),
    "index.factory": ({"index": {"factory": "SQ8"}}, stages("index", "query", "report")),
    "index.probes": ({"index": {"probes": 3}}, stages("index", "query", "report")),
    "candidates.suspect_share": ({"candidates": {"suspect_share": 0.3}}, lambda _: False),
    "query.scores": (
        {"query": {"scores": ["influence@trained", "fvm@flat"]}},
        stages("query", "report"),
    ),
    "query rows": (
        {"task": {"data": {"queries": 8}}},
        lambda artefact: "/query/" in artefact or artefact.endswith("-query") or stages("query", "report")(artefact),
    ),
    "validation rows": (
        {"task": {"data": {"validation": 18}}},
        lambda artefact: (
            artefact
            in (
                "checkpoints/flat",
                "checkpoints/folds",
                "gradients/trained/validation/00000",
                "vectors/trained-validation",
            )
            or only_at("flat")(artefact)
            or stages("index")(artefact)  # their recall is measured with validation rows
            or ANSWERS(artefact)
        ),
    ),
    "query.k": ({"query": {"k": 4}}, stages("query", "report")),
    "evaluate.neighbours": ({"evaluate": {"neighbours": 4}}, stages("evaluation", "report")),
    "report.suspects": ({"report": {"suspects": 4}}, stages("report")),
}
"""A changed key, and which artefacts are made anew."""

CODE: dict[str, tuple[str, Chosen]] = {
    "core/codec.py": ("core/codec.py", lambda artefact: not artefact.startswith("checkpoints")),
    "core/influence.py": ("core/influence.py", stages("index", "scores", "query", "evaluation", "report")),
    "core/curvature.py": ("core/curvature.py", FROM_CURVATURE),
    "steps/query.py": ("steps/query.py", stages("query", "report")),
    "steps/flatten.py": (
        "steps/flatten.py",
        lambda artefact: (
            artefact in ("checkpoints/flat", "checkpoints/folds") or only_at("flat")(artefact) or ANSWERS(artefact)
        ),
    ),
    "report/svg.py": ("report/svg.py", stages("report")),
    "cli/run.py": ("cli/run.py", lambda _: False),
}
"""An edited module, and which artefacts are made anew: those of the stages that import it, and what follows."""

OPTIONS: dict[str, tuple[list[str], Chosen]] = {
    "nothing": ([], lambda _: False),
    "force index": (["--force", "index"], stages("index", "query", "report")),
    "force curvature": (["--force", "curvature"], FROM_CURVATURE),
    "refit": (["--refit"], everything),
    "refit until gradients": (
        ["--refit", "--until", "gradients"],
        lambda artefact: stages("checkpoints", "projection", "gradients")(artefact) and "folds" not in artefact,
    ),
}


@pytest.fixture(scope="module")
def plans(project: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What each change would make anew; two dry runs at a time."""
    asked: dict[str, Callable[[], set[str]]] = {}
    for name, (sections, _) in CONFIG.items():
        copy = project.copy_of_run(tmp_path_factory.mktemp("copy"))
        asked[name] = partial(planned, copy, "-c", project.changed(Path(name), **sections))
    for name, (options, _) in OPTIONS.items():
        asked[name] = partial(planned, project.copy_of_run(tmp_path_factory.mktemp("copy")), *options)
    for name, (module, _) in CODE.items():
        tree = copy_of_code(tmp_path_factory.mktemp("code"))
        with (tree / "pipeline" / module).open("a") as stream:
            stream.write("\n\nNEW = 1\n")
        asked[name] = partial(planned, project.copy_of_run(tmp_path_factory.mktemp("copy")), tree=tree)
    asked["a new run"] = partial(planned, tmp_path_factory.mktemp("new") / "run", "-c", project.config)
    plain = project.copy_of_run(tmp_path_factory.mktemp("copy"))
    asked["plain"] = partial(plainly_planned, plain, project.config)
    changed = project.changed(Path("plain"), curvature={"damping": 0.5})
    asked["plain, curvature.damping"] = partial(plainly_planned, plain, changed)
    asked["plain, a new run"] = partial(plainly_planned, tmp_path_factory.mktemp("new") / "run", project.config)
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(asked, pool.map(lambda ask: ask(), asked.values()), strict=True))


@pytest.fixture(scope="module")
def whole(project: Project) -> set[str]:
    return artefacts(project.run)


def test_a_dry_run_names_all_that_a_run_makes(plans: dict[str, set[str]], whole: set[str]) -> None:
    assert plans["a new run"] == whole
    assert {f"gradients/flat/train/0000{i}" for i in range(2)} <= whole
    assert {"checkpoints/flat", "index/flat-inner", "scores/scores", "report/index"} <= whole


@pytest.mark.parametrize("name", CONFIG)
def test_a_changed_key_reruns_what_depends_on_it(name: str, plans: dict[str, set[str]], whole: set[str]) -> None:
    assert plans[name] == {artefact for artefact in whole if CONFIG[name][1](artefact)}


@pytest.mark.parametrize("name", CODE)
def test_an_edit_of_a_module_reruns_the_stages_that_import_it(
    name: str, plans: dict[str, set[str]], whole: set[str]
) -> None:
    assert plans[name] == {artefact for artefact in whole if CODE[name][1](artefact)}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_reruns_what_it_says(name: str, plans: dict[str, set[str]], whole: set[str]) -> None:
    assert plans[name] == {artefact for artefact in whole if OPTIONS[name][1](artefact)}


def test_plain_snakemake_plans_the_same(plans: dict[str, set[str]]) -> None:
    assert plans["plain"] == set()
    assert plans["plain, curvature.damping"] == plans["curvature.damping"]
    assert plans["plain, a new run"] == plans["a new run"]


def test_a_dry_run_leaves_config_and_results_as_they_were(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    files = [copy / "config.yaml", *sorted((copy / "results").rglob("*.*"))]
    before = {file: file.read_bytes() for file in files if file.is_file()}
    planned(copy, "-c", project.changed(tmp_path, gradients={"codec": "bf16"}))
    assert {file: file.read_bytes() for file in files if file.is_file()} == before


def test_appended_rows_need_their_own_shards_only(project: Project, tmp_path: Path, whole: set[str]) -> None:
    with edited(project.data, array_bytes(table(ROWS + 25))):  # the partial second shard is filled, a third one begins
        made = planned(project.copy_of_run(tmp_path))
    third = {f"{kind}/train/00002" for kind in ("gradients/trained", "gradients/flat", "candidates/flat")}
    assert made == third | {name for name in whole if last_shard(name) or of_train_rows(name)}


def test_rows_that_fill_a_partial_shard_need_that_shard_only(project: Project, tmp_path: Path, whole: set[str]) -> None:
    with edited(project.data, array_bytes(table(ROWS + 5))):
        made = planned(project.copy_of_run(tmp_path))
    assert made == {name for name in whole if last_shard(name) or of_train_rows(name)}


def test_retired_rows_need_no_gradient(project: Project, tmp_path: Path, whole: set[str]) -> None:
    copy = project.copy_of_run(tmp_path)
    assert ask("retire", copy, "--rows", "3,25").code == 0
    at_trained = {name for name in whole if FROM_CURVATURE(name) and "trained" in name}
    assert planned(copy) == at_trained | {name for name in whole if ANSWERS(name)}
    assert ask("retire", copy, "--restore").code == 0
    assert planned(copy) == set()


def test_comments_and_the_place_of_a_project_are_no_change(project: Project, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(project.directory, tmp_path / "moved"))
    config = moved / "my.yaml"
    config.write_text("# a comment\n" + config.read_text())
    assert planned(moved / "run", "-c", config) == set()


def test_a_relabelled_row_needs_its_own_shard_only(project: Project, tmp_path: Path, whole: set[str]) -> None:
    rows = table(ROWS)
    rows[5, 64] = (rows[5, 64] + 1) % 10
    with edited(project.data, array_bytes(rows)):
        made = planned(project.copy_of_run(tmp_path))
    touched = {name for name in made if name.startswith(("gradients", "candidates", "projection", "checkpoints"))}
    assert touched == {f"{kind}/train/00000" for kind in ("gradients/trained", "gradients/flat", "candidates/flat")}
    assert {"scores/scores", "index/flat-inner", "report/index"} <= made


def test_another_truth_reruns_the_evaluation_only(project: Project, tmp_path: Path, whole: set[str]) -> None:
    rows = table(ROWS)
    rows[:, 65] = rows[::-1, 65]
    with edited(project.data, array_bytes(rows)):
        assert planned(project.copy_of_run(tmp_path)) == {"evaluation/mislabel", "report/index"}


def test_an_edit_of_the_task_reruns_its_stages_unless_accepted(
    project: Project, tmp_path: Path, whole: set[str]
) -> None:
    copy = project.copy_of_run(tmp_path)
    source = project.task.read_bytes()
    with edited(project.task, source.replace(b"Rows from a file", b"Rows from the file")):
        assert planned(copy) == set()  # a docstring computes nothing
    with edited(project.task, source + b"\n\nNEW = 1\n"):
        assert planned(copy) == whole
        assert planned(copy, "--accept-code") == set()
        assert planned(copy) == whole  # a dry run accepts nothing for later
    with edited(
        project.task,
        source.replace(b"def read(", b"def show(self, row):\n        return super().show(row)\n\n    def read("),
    ):
        assert planned(copy) == {"report/index"}  # how a row looks concerns the report alone


def test_an_edit_of_a_neighbour_of_the_task_counts_too(project: Project, tmp_path: Path) -> None:
    neighbour = project.directory / "my_task.py"
    with edited(neighbour, neighbour.read_bytes() + b"\n\nNEW = 1\n"):
        assert "checkpoints/trained" in planned(project.copy_of_run(tmp_path))


def test_another_size_of_shards_leaves_what_was_fitted(project: Project, tmp_path: Path) -> None:
    made = planned(project.copy_of_run(tmp_path), "-c", project.changed(tmp_path, plan={"shard_rows": 25}))
    assert not {name for name in made if name.startswith(("checkpoints", "projection"))}
    assert {"gradients/flat/train/00000", "gradients/flat/train/00001", "scores/scores"} <= made
    assert not {name for name in made if "/validation/" in name or "/query/" in name}  # one shard either way
