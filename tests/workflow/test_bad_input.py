"""Bad input gets one sentence on stderr and exit code 2, and leaves the run as it was."""

from __future__ import annotations

import errno
import json
import os
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config as settings
from pipeline.storage.artefact import KEPT
from tests.workflow.runs import Answer, Project, answer_of, array_bytes, ask, edited, lowland, table

pytestmark = pytest.mark.workflow


def contents(run: Path) -> dict[str, bytes]:
    """All that a run holds, but for word of the last failure and Snakemake's own notes."""
    files = [
        file
        for file in run.rglob("*")
        if file.is_file() and ".snakemake" not in file.parts and file.name != "failure.json"
    ]
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


# -- questions -------------------------------------------------------------------------------------

QUESTIONS = {
    "a row outside the range": (["query", "{run}", "--row", "query:12"], "expected a query row from 0 to 11, got 12"),
    "a negative row": (["query", "{run}", "--row", "train:-1"], "expected a train row from 0 to 29, got -1"),
    "a row of no split": (["query", "{run}", "--row", "querry:1"], "(did you mean 'query'?)"),
    "a row without number": (["query", "{run}", "--row", "query"], "expected a row such as query:17"),
    "k larger than N": (["query", "{run}", "--row", "query:1", "-k", "31"], "expected k from 1 to 30"),
    "k of zero": (["query", "{run}", "--row", "query:1", "-k", "0"], "expected k from 1 to 30"),
    "k that is no number": (["query", "{run}", "--row", "query:1", "-k", "ten"], "'ten' is not a valid integer"),
    "an unknown score": (["query", "{run}", "--row", "query:1", "--score", "influense"], "(did you mean 'influence'?)"),
    "a score at no such checkpoint": (
        ["query", "{run}", "--row", "query:1", "--score", "fvm@trained"],
        "expected fvm at flat",
    ),
    "neither row nor file": (["query", "{run}"], "got neither"),
    "both row and file": (["query", "{run}", "--row", "query:1", "--input", "x.npy"], "got both"),
    "a part where the task knows none": (
        ["query", "{run}", "--row", "query:1", "--on", "left"],
        "expected the task MyRows to know parts of a row",
    ),
    "a missing file": (["query", "{run}", "--input", "{tmp}/none.npy"], "expected a file at"),
    "a file of garbage": (["query", "{run}", "--input", "{tmp}/garbage.npy"], "garbage.npy to be a row of the task"),
    "a file of another shape": (["query", "{run}", "--input", "{tmp}/shape.npy"], "shape.npy to be a row of the task"),
    "a file of NaN": (
        ["query", "{run}", "--input", "{tmp}/nan.npy", "--label", "1"],
        "expected a finite loss and gradient",
    ),
    "an unknown label": (["query", "{run}", "--input", "{tmp}/good.npy", "--label", "ten"], "got 'ten'"),
    "--top too large": (["suspects", "{run}", "--top", "31"], "expected --top from 1 to 30"),
    "--top of zero": (["suspects", "{run}", "--top", "0"], "0 is not in the range"),
    "an unknown column": (["suspects", "{run}", "--score", "loss"], "is not one of"),
    "query of no run": (["query", "{tmp}", "--row", "query:1"], "expected the directory of a run"),
    "suspects of no run": (["suspects", "{tmp}"], "expected the directory of a run"),
    "verify of no run": (["verify", "{tmp}"], "expected the directory of a run"),
    "report of no run": (["report", "{tmp}/none"], "expected the directory of a run"),
    "evaluate of no run": (["evaluate", "{tmp}"], "expected the directory of a run"),
    "an unknown command": (["qeury", "{run}"], "no such command"),
    "an unknown option": (["query", "{run}", "--rwo", "query:1"], "no such option"),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_question_that_has_no_answer(name: str, project: Project, tmp_path: Path) -> None:
    (tmp_path / "garbage.npy").write_bytes(b"not an array")
    np.save(tmp_path / "shape.npy", np.zeros(63))
    np.save(tmp_path / "nan.npy", np.full(64, np.nan))
    np.save(tmp_path / "good.npy", np.zeros(64))
    words, expected = QUESTIONS[name]
    answer = ask(*(word.format(run=project.run, tmp=tmp_path) for word in words))
    assert expected.lower() in answer.complaint.lower()


# -- configurations --------------------------------------------------------------------------------

CONFIGS = {
    "a misspelt section": ("curvture: {damping: 1}", "got 'curvture' (did you mean 'curvature'?)"),
    "a misspelt key": ("curvature: {dampng: 1}", "got 'curvature.dampng' (did you mean 'damping'?)"),
    "a wrong type": ("curvature: {damping: much}", "'curvature.damping' in the config to be a valid number"),
    "a value out of range": (
        "plan: {shard_rows: 0}",
        "'plan.shard_rows' in the config to be \"auto\" or a whole number >= 1, got 0",
    ),
    "an unknown score": ("query: {scores: [influense@trained]}", "did you mean 'influence'?"),
    "no mapping": ("- curvature", "expected sections such as 'task:'"),
    "no YAML": ("task: {class: digits", "expected YAML in"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_that_is_none(name: str, project: Project, tmp_path: Path) -> None:
    text, expected = CONFIGS[name]
    (tmp_path / "bad.yaml").write_text(text)
    before = contents(project.run)
    assert expected in ask("run", "-c", tmp_path / "bad.yaml", "--workdir", project.run).complaint
    assert contents(project.run) == before


def test_a_config_that_is_missing(tmp_path: Path) -> None:
    assert (
        "expected a config file at" in ask("run", "-c", tmp_path / "no.yaml", "--workdir", tmp_path / "run").complaint
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("option", "value", "expected"), [
    ("--profile", "no-such", "expected a profile"), ("--force", "gradient", "is not one of"), ("--cores", "0", "not in the range"),
])  # fmt: skip
def test_an_option_of_run_that_is_wrong(option: str, value: str, expected: str, tmp_path: Path) -> None:
    assert expected in ask("run", "--workdir", tmp_path / "run", option, value).complaint


# -- tasks, when the run is planned ----------------------------------------------------------------

TASKS = {
    "a file that is missing": ("task.py:Mine", None, "expected a Python file at"),
    "a file without class": ("bad.py", "", "add the name of the class"),
    "a built-in that is none": ("digit", None, "did you mean 'digits'?"),
    "a syntax error": ("bad.py:Bad", "class Bad(\n", "expected bad.py to import"),
    "an import that fails": ("bad.py:Bad", "import no_such_module_anywhere\n", "no_such_module_anywhere"),
    "a class that is missing": ("bad.py:Bat", "class Bad(MyRows):\n    pass\n", "expected a class 'Bat' in bad.py"),
    "a class that is no task": ("bad.py:Bad", "class Bad:\n    pass\n", "to be a Task"),
    "a method that is missing": ("bad.py:Bad", "from pipeline.tasks.base import Task\nclass Bad(Task):\n    pass\n", "got none called"),
    "a constructor that fails": ("bad.py:Bad", "class Bad(MyRows):\n    def __init__(self):\n        1 / 0\n", "ZeroDivisionError"),
    "a label outside the classes": (
        "bad.py:Bad", "class Bad(MyRows):\n    labels = property(lambda self: [10] * 30)\n", ("expected labels from 0 " "to 9, got 10")
    ),
    "labels of one class": (
        "bad.py:Bad",
        "class Bad(MyRows):\n    def __init__(self):\n        super().__init__()\n        self.given[:] = 3\n",
        "expected labels of at least two classes, got 3 for all 30 train rows",
    ),
    "too few labels": ("bad.py:Bad", "class Bad(MyRows):\n    labels = property(lambda self: [1, 2])\n", ("expected " "labels of shape [30]")),
    "no validation rows": ("bad.py:Bad", "class Bad(MyRows):\n    def validation_rows(self):\n        return []\n", "expected validation rows, got none"),
    "neither weights nor training": (
        "bad.py:Bad", "from pipeline.tasks.base import Task\nclass Bad(MyRows):\n    train = Task.train\n", ("expected " "a trained model, got neither")
    ),
    "a source that is missing": (
        "bad.py:Bad", "class Bad(MyRows):\n    def sources(self):\n        return ['/no/such/file']\n", ("expected the " "data file /no/such/file")
    ),
}  # fmt: skip


def bad_task(project: Project, source: str | None) -> None:
    """A task file of its own in the project's directory; it knows MyRows."""
    (project.directory / "bad.py").unlink(missing_ok=True)
    if source is not None:
        (project.directory / "bad.py").write_text("from my_rows import MyRows\n" + source)


def run_stage(run: Path, config: Path, name: str, *where: str) -> Answer:
    """A stage as its rule would call it."""
    passed = json.dumps(settings.sections(settings.load(config), name))
    before = Path.cwd()
    os.chdir(run)
    try:
        return ask("stage", name, "--config", passed, *where)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_cannot_be_planned(name: str, project: Project, tmp_path: Path) -> None:
    spec, source, expected = TASKS[name]
    bad_task(project, source)
    copy = project.copy_of_run(tmp_path)
    before = contents(copy)
    answer = run_stage(copy, project.changed(Path("bad"), task={"class": spec}), "prepare")
    assert expected in answer.complaint
    assert contents(copy) == before


def test_a_run_that_cannot_be_planned_says_it_once_and_stays_as_it_was(project: Project, tmp_path: Path) -> None:
    bad_task(project, "class Bad(MyRows):\n    labels = property(lambda self: [10] * 30)\n")
    copy = project.copy_of_run(tmp_path)
    before = contents(copy)
    answer = answer_of(
        lowland("run", "-c", project.changed(Path("bad"), task={"class": "bad.py:Bad"}), "--workdir", copy)
    )
    assert "expected labels from 0 to 9, got 10" in answer.complaint
    assert contents(copy) == before


# -- tasks and weights, when a stage meets them ----------------------------------------------------

LOSSES = {
    "a mean over the batch": ("return super().loss(model, batch).mean()", "of shape [8], one value a row, got []"),
    "a loss of two columns": (
        "return super().loss(model, batch)[:, None].repeat(1, 2)",
        "of shape [8], one value a row, got [8, 2]",
    ),
    "no tensor": ("return 1.0", "of shape [8], one value a row, got float"),
    "a loss that fails": ("raise KeyError('nothing')", "KeyError: 'nothing' (bad.py, line 4)"),
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_none(name: str, project: Project, tmp_path: Path) -> None:
    body, expected = LOSSES[name]
    bad_task(project, f"class Bad(MyRows):\n    def loss(self, model, batch):\n        {body}\n")
    config = project.changed(Path("bad"), task={"class": "bad.py:Bad"})
    assert expected in run_stage(project.copy_of_run(tmp_path), config, "prepare").complaint


LATE = {
    "for some rows": ("if len(batch[1]) == 20: raise KeyError('nothing')", "KeyError: 'nothing' (bad.py, line 4)"),
    "of another shape": ("if len(batch[1]) == 20: return super().loss(model, batch).mean()", "[B] = [20], got []"),
    "without gradient": ("return super().loss(model, batch).detach()", "grad"),
}


@pytest.mark.parametrize("name", LATE)
def test_a_loss_that_fails_later(name: str, project: Project, tmp_path: Path) -> None:
    body, expected = LATE[name]
    source = f"class Bad(MyRows):\n    def loss(self, model, batch):\n        {body}\n        return super().loss(model, batch)\n"
    bad_task(project, source)
    config = project.changed(Path("bad"), task={"class": "bad.py:Bad"})
    where = ("--checkpoint", "trained", "--split", "train", "--shard", "00000")
    assert expected in run_stage(project.copy_of_run(tmp_path), config, "gradients", *where).complaint


def test_losses_that_are_no_numbers(project: Project, tmp_path: Path) -> None:
    bad_task(
        project,
        "class Bad(MyRows):\n    def loss(self, model, batch):\n        return super().loss(model, batch) * float('nan')\n",
    )
    config, copy = project.changed(Path("bad"), task={"class": "bad.py:Bad"}), project.copy_of_run(tmp_path)
    for stage, *where in (
        ("projection", "--checkpoint", "trained"),
        ("gradients", "--checkpoint", "trained", "--split", "train", "--shard", "00000"),
        ("flatten",),
    ):
        assert "expected finite losses" in run_stage(copy, config, stage, *where).complaint


def test_a_split_without_one_finite_row(project: Project, tmp_path: Path) -> None:
    """The first rows are numbers, so that capture begins; each of the others is kept and flagged; a curvature has no rows left."""
    rows = table(30)
    rows[:, :64] = np.nan
    copy = project.copy_of_run(tmp_path)
    with edited(project.data, array_bytes(rows)):
        assert run_stage(copy, project.config, "prepare").code == 0
        where = ("--checkpoint", "trained", "--split", "train", "--shard", "00000")
        assert "finite" in run_stage(copy, project.config, "gradients", *where).complaint


WEIGHTS = {
    "missing": (lambda path: None, "expected weights at"),
    "garbage": (lambda path: path.write_bytes(b"no weights"), "expected only tensors in"),
    "of another model": (lambda path: torch.save({"0.weight": torch.zeros(2, 2)}, path), "(2, 2) in the file"),
    "not a state dict": (lambda path: torch.save([1, 2], path), "expected a state dict"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_do_not_fit(name: str, project: Project, tmp_path: Path) -> None:
    write, expected = WEIGHTS[name]
    write(tmp_path / "weights.pt")
    config = project.changed(Path("bad"), task={"checkpoint": str(tmp_path / "weights.pt")})
    copy = project.copy_of_run(tmp_path)
    before = contents(copy)
    assert expected in run_stage(copy, config, "train").complaint
    assert contents(copy) == before


def test_a_job_that_fails_says_why_at_the_end(project: Project, tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(2, 2)}, tmp_path / "weights.pt")
    config = project.changed(Path("bad"), task={"checkpoint": str(tmp_path / "weights.pt")})
    complaint = answer_of(lowland("run", "-c", config, "--workdir", tmp_path / "run", "--cores", 1)).complaint
    assert complaint.startswith("train: expected weights of the task's model")
    (tmp_path / "weights.pt").unlink()
    complaint = answer_of(lowland("run", "-c", config, "--workdir", tmp_path / "run", "--cores", 1)).complaint
    assert complaint.startswith("expected weights at")


# -- rows ------------------------------------------------------------------------------------------


def test_a_row_that_is_no_number_is_flagged_and_left_out(project: Project, tmp_path: Path) -> None:
    rows = table(30)
    rows[4, :64] = np.nan
    copy = project.copy_of_run(tmp_path)
    where = ("--checkpoint", "trained", "--split", "train", "--shard", "00000")
    with edited(project.data, array_bytes(rows)):
        assert run_stage(copy, project.config, "prepare").code == 0
        answer = run_stage(copy, project.config, "gradients", *where)
    assert answer.code == 0 and "excluded from curvature and index: [4]" in answer.err
    for stage, *place in (
        ("curvature", "--checkpoint", "trained", "--split", "train"),
        ("vectors", "--checkpoint", "trained", "--split", "validation"),
        ("vectors", "--checkpoint", "trained", "--split", "query"),
        ("index", "--checkpoint", "trained", "--metric", "inner"),
    ):
        assert run_stage(copy, project.config, stage, *place).code == 0
    answer = ask("query", copy, "--row", "query:3", "-k", 29, "--json")
    assert 4 not in [row["row"] for row in answer.rows]
    assert "expected k from 1 to 29" in ask("query", copy, "--row", "query:3", "-k", 30).complaint
    assert "expected a finite gradient of train row 4" in ask("query", copy, "--row", "train:4").complaint


# -- machines --------------------------------------------------------------------------------------


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "somewhere")


@pytest.mark.parametrize(
    ("stage", "where", "place"),
    [
        (
            "gradients",
            ("--checkpoint", "trained", "--split", "train", "--shard", "00000"),
            "gradients/trained/train/00000",
        ),
        ("train", (), "checkpoints/trained"),
        ("scores", (), "scores/scores"),
    ],
)
def test_a_full_disk(
    stage: str, where: tuple[str, ...], place: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing half-written stays, what was there is whole, and the stage can be run again."""
    copy = project.copy_of_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        complaint = run_stage(copy, project.config, stage, *where).complaint
    assert "got a full disk; free some and run again" in complaint
    assert ask("verify", copy).code == 0  # what stood there before is still whole
    assert not list((copy / "results").rglob(".*.tmp"))
    assert run_stage(copy, project.config, stage, *where).code == 0


def test_a_file_that_may_not_be_read(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "plan.json")

    monkeypatch.setattr("pipeline.cli.suspects.Plan.load", forbidden)
    assert "expected permission to use plan.json" in ask("suspects", project.run).complaint


@pytest.mark.parametrize(
    ("stage", "where", "writer"),
    [
        ("index", ("--checkpoint", "trained", "--metric", "inner"), "indexes.faiss_part.write"),
        ("scores", (), "tables.pq.write_table"),
    ],
)
def test_a_full_disk_under_foreign_writers(
    stage: str, where: tuple[str, ...], writer: str, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAISS and Arrow write to a device that is always full; each says it in its own way."""
    copy, written = project.copy_of_run(tmp_path), f"pipeline.storage.{writer}"
    write = pkgutil.resolve_name(written)
    for kept in copy.rglob(KEPT):  # else the index would link to the files that it has
        kept.unlink()

    def to_full_device(value: object, path: Path) -> None:
        path.symlink_to("/dev/full")  # Arrow removes what it could not write
        write(value, path)

    monkeypatch.setattr(written, to_full_device)
    complaint = run_stage(copy, project.config, stage, *where).complaint
    assert "got a full disk; free some and run again" in complaint
    assert ask("verify", copy).code == 0
