"""Loading tasks: built-in names, users' files, and every way in which that fails."""

from __future__ import annotations

import importlib
import pickle
import re
import sys
from pathlib import Path

import pytest

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Task
from pipeline.tasks.load import load
from pipeline.tasks.names import BUILT_IN

GOOD = """
from pathlib import Path
import torch
from pipeline.tasks.base import Task
import neighbour_of_mine

class Mine(Task):
    def __init__(self, size: int = 3, file: Path | None = None):
        self.size, self.file, self.word = size, file, neighbour_of_mine.WORD
        if size < 0:
            raise ValueError("size below zero")
    def model(self): return torch.nn.Linear(2, 1)
    def train_rows(self): return [(torch.ones(2), torch.ones(1))] * self.size
    def validation_rows(self): return self.train_rows()
    def query_rows(self): return []
    def loss(self, model, batch): return (model(batch[0]) - batch[1]).square().sum(1)

class NotOne:
    pass

class Partial(Task):
    def model(self): return torch.nn.Linear(2, 1)
    def train_rows(self): return []

def factory(): pass
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "neighbour_of_mine.py").write_text("WORD = 'next door'\n")
    (tmp_path / "mine.py").write_text(GOOD)
    yield tmp_path
    sys.modules.pop("neighbour_of_mine", None)


def refused(spec: str, folder: Path, message: str, **options: object) -> None:
    with pytest.raises(TaskError, match=message):
        load(spec, options, folder)


def test_a_users_file_loads_with_its_neighbours_and_options(folder: Path) -> None:
    before = list(sys.path)
    task = load("mine.py:Mine", {"size": 5, "file": "data/x.csv"}, folder)
    assert isinstance(task, Task) and len(task.train_rows()) == 5 and task.word == "next door"
    assert task.file == (folder / "data/x.csv").resolve()  # annotated as Path: relative to the config
    assert sys.path == before
    assert load(f"{folder}/mine.py:Mine", {}, Path("/")).size == 3


def test_a_loaded_task_pickles_within_the_process(folder: Path) -> None:
    task = load("mine.py:Mine", {"size": 4}, folder)
    assert pickle.loads(pickle.dumps(task)).size == 4


def test_two_files_of_one_name_do_not_meet(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine.py").write_text(GOOD.replace("size: int = 3", "size: int = 7"))
    assert load("mine.py:Mine", {}, folder).size == 3
    assert load("mine.py:Mine", {}, other).size == 7


def test_an_edited_file_is_read_again(folder: Path) -> None:
    load("mine.py:Mine", {}, folder)
    (folder / "mine.py").write_text(GOOD.replace("size: int = 3", "size: int = 8"))  # same length, same second
    assert load("mine.py:Mine", {}, folder).size == 8


def test_built_in_names_resolve() -> None:
    task = load("digits", {"epochs": 1}, Path())
    assert type(task).__name__ == "Digits"
    for spec in BUILT_IN.values():
        module, name = spec.split(":")
        assert issubclass(getattr(importlib.import_module(module), name), Task)


def test_an_unknown_name_is_told_the_nearest(folder: Path) -> None:
    refused("digit", folder, r"^expected a built-in task or file.py:Class, got 'digit'; did you mean 'digits'\?$")
    refused("xyzzy", folder, f"got 'xyzzy'; known are: {', '.join(sorted(BUILT_IN))}$")
    refused("my.module:Class", folder, "expected a built-in task or file.py:Class, got 'my.module:Class'")
    refused("mine.py", folder, r"add the name of the class, 'mine.py:MyTask'")


def test_a_missing_file(folder: Path) -> None:
    refused(
        "absent.py:Mine",
        folder,
        rf"^expected a Python file at {re.escape(str(folder.resolve()))}/absent.py, found none; mend",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\nx = 1 / 0\n", r"got ZeroDivisionError: division by zero \(bad.py, line 2\); mend that line$"),
        ("def f(:\n", r"got SyntaxError: .* \(bad.py, line 1\)"),
        (
            "import torch\n\nimport no_such_module\n",
            r"got ModuleNotFoundError: No module named 'no_such_module' \(bad.py, line 3\)",
        ),
        ("import torch\n\ntorch.zeros(2) @ torch.zeros(3)\n", r"got RuntimeError: .*\(bad.py, line 3\)"),
        ("import sys\nsys.exit(3)\n", r"got SystemExit: 3 \(bad.py, line 2\)"),
    ],
)
def test_a_file_that_does_not_import_names_the_users_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    before = set(sys.modules)
    refused("bad.py:Mine", tmp_path, "^expected bad.py to import, " + message)
    assert not [name for name in set(sys.modules) - before if name.startswith("_lowland")]


def test_a_missing_class_names_those_there(folder: Path) -> None:
    refused(
        "mine.py:Mime", folder, r"expected a class 'Mime' in mine.py, found none of that name; did you mean 'Mine'\?"
    )
    refused("mine.py:Qqqqqq", folder, r"known are: Mine, NotOne, Partial$")


def test_a_class_that_is_no_task(folder: Path) -> None:
    refused("mine.py:NotOne", folder, r"expected 'NotOne' in mine.py to be a Task, .*write class NotOne\(Task\)")
    refused("mine.py:NotOne", folder, r"`from pipeline.tasks.base import Task`")
    refused("mine.py:factory", folder, r"expected 'factory' in mine.py to be a Task, got function;")


def test_missing_methods_are_named(folder: Path) -> None:
    refused("mine.py:Partial", folder, r"got none called loss, query_rows, validation_rows; write them")


def test_options_are_checked(folder: Path) -> None:
    refused("mine.py:Mine", folder, r"^expected options of Mine, got 'sise'; did you mean 'size'\?$", sise=3)
    refused("mine.py:Mine", folder, r"got 'zzz'; known are: file, size$", zzz=3)
    refused(
        "digits", folder, r"expected options of Digits, got 'noise_rat'; did you mean 'noise_rate'\?", noise_rat=0.1
    )
    (folder / "needy.py").write_text(GOOD.replace("size: int = 3", "size"))
    refused("needy.py:Mine", folder, r"^expected the option size of Mine, got none; add it under task.options$")


def test_an_exception_in_the_constructor(folder: Path) -> None:
    refused(
        "mine.py:Mine",
        folder,
        r"^expected Mine\(size=-1\) to be made, got ValueError: size below zero \(mine.py, line 11\); mend",
        size=-1,
    )


def test_a_tasks_own_input_error_passes_unchanged(folder: Path) -> None:
    (folder / "careful.py").write_text(
        GOOD.replace(
            'raise ValueError("size below zero")', 'from pipeline.errors import DataError; raise DataError("no rows")'
        )
    )
    with pytest.raises(DataError, match="^no rows$"):
        load("careful.py:Mine", {"size": -1}, folder)


@pytest.mark.parametrize("spec", sorted(BUILT_IN))
def test_every_built_in_documents_its_options(spec: str) -> None:
    import inspect

    module, name = BUILT_IN[spec].split(":")
    cls = getattr(importlib.import_module(module), name)
    described = "".join(part.__doc__ or "" for part in cls.__mro__ if part.__module__.startswith("pipeline.tasks"))
    options = [key for key, p in inspect.signature(cls).parameters.items() if p.kind is not p.VAR_KEYWORD]
    assert options and not [key for key in options if key not in described]
