"""Pieces of the commands that need no run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline import config as settings
from pipeline.cli.common import layout_of, show
from pipeline.cli.main import main
from pipeline.cli.query import parse_row
from pipeline.cli.run import arguments_of, unlock
from pipeline.cli.untouched import given_back
from pipeline.errors import ConfigError, DataError, InputError, StoreError
from pipeline.tasks.template import config_template, task_template

NOTHING = {
    "cores": None, "until": None, "force": (), "refit": False, "dry_run": False, "profile": None, "dask": None,
    "snakemake_arguments": (),
}  # fmt: skip


# -- run -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"cores": 3}, ["--cores", "3"]),
        ({"cores": 1, "until": "gradients"}, ["--cores", "1", "--until", "gradients"]),
        ({"cores": 1, "force": ("index", "scores")}, ["--cores", "1", "--forcerun", "index", "scores"]),
        ({"cores": 1, "refit": True}, ["--cores", "1", "--forcerun", "train", "projection"]),
        ({"cores": 1, "dry_run": True}, ["--cores", "1", "--dry-run"]),
        ({"cores": 1, "dask": "tcp://h:1"}, ["--cores", "1", "--config", 'compute={"dask": "tcp://h:1"}']),
        ({"cores": 1, "snakemake_arguments": ("--keep-going",)}, ["--cores", "1", "--keep-going"]),
    ],
)
def test_options_in_snakemakes_words(options: dict, expected: list[str]) -> None:
    assert arguments_of({**NOTHING, **options}) == expected


def test_all_cores_are_used_unless_said() -> None:
    flag, count = arguments_of(NOTHING)[:2]
    assert flag == "--cores" and int(count) >= 1


def test_a_profile_is_a_directory_with_a_config(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("cores: 1\n")
    arguments = arguments_of({**NOTHING, "profile": str(tmp_path / "mine")})
    assert arguments[arguments.index("--workflow-profile") + 1] == str(tmp_path / "mine")
    with pytest.raises(ConfigError, match=r"expected a profile with a config\.yaml, got .*/other; there are: mine"):
        arguments_of({**NOTHING, "profile": str(tmp_path / "other")})


def test_files_aregiven_back_when_a_run_ends_before_it_began(tmp_path: Path) -> None:
    kept, new = tmp_path / "config.yaml", tmp_path / "results" / "prepare" / "plan.json"
    kept.write_text("before")

    def spoil() -> None:
        kept.write_text("after")
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_text("after")

    with pytest.raises(SystemExit), given_back(tmp_path, always=False):
        spoil()
        raise SystemExit(2)
    assert kept.read_text() == "before" and not new.exists()
    with given_back(tmp_path, always=True):
        spoil()
    assert kept.read_text() == "before" and not new.exists()
    with pytest.raises(InputError), given_back(tmp_path, always=False):
        spoil()
        raise InputError("a stage failed: what it has made belongs to the new config")
    assert kept.read_text() == new.read_text() == "after"


def test_unlock_removes_locks_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("locks/0.input.lock", "metadata/x"):
        (tmp_path / ".snakemake" / name).parent.mkdir(parents=True)
        (tmp_path / ".snakemake" / name).touch()
    unlock(tmp_path)
    assert not (tmp_path / ".snakemake/locks").exists() and (tmp_path / ".snakemake/metadata/x").exists()
    assert "unlocked" in capsys.readouterr().out
    unlock(tmp_path)  # nothing to remove is no error


# -- query and tables ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "row"), [("query:17", ("query", 17)), ("train:0", ("train", 0)), ("validation:-1", ("validation", -1))]
)
def test_a_row_is_named_by_split_and_position(text: str, row: tuple[str, int]) -> None:
    assert parse_row(text) == row


@pytest.mark.parametrize("text", ["17", "query", "query:", "query:x", "test:1", ":3", "query:1.5", "query:²"])
def test_other_names_of_rows_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="expected a row such as query:17, validation:3 or train:5"):
        parse_row(text)


def test_a_table_is_aligned_and_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"row": 7, "label": "cat", "score": 0.123456, "wrong": True},
        {"row": 123, "label": None, "score": -2e-9, "wrong": False},
    ]
    show(rows, as_json=False, header="two rows")
    assert capsys.readouterr().out.splitlines() == [
        "two rows",
        "row  label   score  wrong",
        "  7  cat    0.1235  yes",
        "123  -      -2e-09",
    ]
    show(rows, as_json=True, header="two rows")
    assert json.loads(capsys.readouterr().out) == rows
    show([], as_json=False, header="none")
    assert capsys.readouterr().out == "none\n"


def test_a_directory_without_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match="expected the directory of a run, got .* which has no results/prepare/plan.json"
    ):
        layout_of(tmp_path)


# -- init ------------------------------------------------------------------------------------------


def test_init_writes_a_task_and_a_config_that_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["init", str(tmp_path / "new")])
    assert (tmp_path / "new/my_task.py").read_text() == task_template()
    assert (tmp_path / "new/my_task.yaml").read_text() == config_template()
    config = settings.load(tmp_path / "new/my_task.yaml")
    assert config.task.class_ == f"{tmp_path / 'new/my_task.py'}:MyTask"
    assert f"lowland run -c {tmp_path / 'new/my_task.yaml'}" in capsys.readouterr().out


def test_init_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my_task.yaml").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["init", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("lowland: expected no my_task.yaml in ")
    assert (tmp_path / "my_task.yaml").read_text() == "mine" and not (tmp_path / "my_task.py").exists()


# -- stage -----------------------------------------------------------------------------------------


def test_a_stage_without_its_place_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["stage", "gradients", "--config", "{}", "--checkpoint", "flat", "--split", "train"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("lowland: expected --shard for the stage gradients, got none")


def test_a_failed_stage_leaves_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    passed = settings.sections(settings.validate(settings.defaults()), "curvature")
    with pytest.raises(SystemExit):
        main(["stage", "curvature", "--config", json.dumps(passed), "--checkpoint", "flat", "--split", "validation"])
    left = json.loads((tmp_path / "results/failure.json").read_text())
    assert left["stage"] == "curvature/flat/validation" and left["exit_code"] == 2
    assert left["message"].startswith("expected the plan of a run")


def test_defaults_are_one_whole_config() -> None:
    assert settings.validate(yaml.safe_load(yaml.safe_dump(settings.defaults()))) == settings.load()
