"""Runs of the workflow for tests: the command in a process or in this one, what Snakemake plans, and a tiny project.

A project is what a user has: a task file that `lowland init` wrote, one of their own beside it that reads its train
rows from train.npy, and a config. Its run is never changed by a test: tests work on copies of the run's directory, and
put the project's files back.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from sklearn.datasets import load_digits

from pipeline.cli import main
from pipeline.config import workflow_root
from tests import warm

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-W", "ignore", "-m", "pipeline"]
ROWS = 30
"""Train rows of the project: a whole shard of 20 and a partial one."""

TASK = '''"""Rows from a file, the model and loss of my_task.py."""

from pathlib import Path

import numpy as np
import torch
from my_task import MyTask
from torch.utils.data import TensorDataset

HERE = Path(__file__).parent


class MyRows(MyTask):
    def __init__(self, validation=20, queries=12):
        super().__init__(wrong=0)
        self.validation, self.queries = validation, queries
        self.clean, table = (self.x[800:832], self.y[800:832]), np.load(HERE / "train.npy")
        self.x = torch.tensor(table[:, :64], dtype=torch.float32).reshape(-1, 1, 8, 8)
        self.given, self.true = torch.tensor(table[:, 64:].T).long()

    def train_rows(self):
        return TensorDataset(self.x, self.given)

    def validation_rows(self):
        return TensorDataset(self.clean[0][:self.validation], self.clean[1][:self.validation])

    def query_rows(self):
        return TensorDataset(self.clean[0][20:20 + self.queries], self.clean[1][20:20 + self.queries])

    @property
    def true_labels(self):
        return self.true.tolist()

    def sources(self):
        return [HERE / "train.npy"]

    def read(self, path, label):
        return torch.tensor(np.load(path), dtype=torch.float32).reshape(1, 8, 8), int(label)
'''

SMALL: dict[str, Any] = {
    "plan": {"shard_rows": 20},
    "flatten": {"strength": 0.1, "watch": False, "steps": 20, "batch_rows": 16},
    "sharpness": {"draws": 2, "iterations": 4, "rows": 20},
    "projection": {"dimension": 64, "sample_rows": 40},
    "index": {"recall_rows": 8},
    "query": {"k": 5},
    "report": {"suspects": 5, "queries": 2},
    "evaluate": {"neighbours": 5},
}
"""What makes a run take seconds."""


@dataclass(frozen=True)
class Project:
    """A user's directory: config, task file, data, and the run that was computed from them."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "my.yaml"

    @property
    def task(self) -> Path:
        return self.directory / "my_rows.py"

    @property
    def data(self) -> Path:
        return self.directory / "train.npy"

    @property
    def run(self) -> Path:
        return self.directory / "run"

    def copy_of_run(self, directory: Path) -> Path:
        """The run, to do with as one likes."""
        return Path(shutil.copytree(self.run, directory / "run", symlinks=True))

    def changed(self, path: Path, **sections: Any) -> Path:
        """A config of its own that differs from the project's; it stands in the project, as its paths start there."""
        config = yaml.safe_load(self.config.read_text())
        for name, values in sections.items():
            config[name] = {**config.get(name, {}), **values} if isinstance(values, dict) else values
        place = self.directory / f"{path.name}.yaml"
        place.write_text(yaml.safe_dump(config))
        return place


def new_project(directory: Path, **sections: Any) -> Project:
    """A project whose run is still to be computed."""
    assert ask("init", str(directory)).code == 0
    project = Project(directory)
    project.task.write_text(TASK)
    np.save(project.data, table(ROWS))
    config = {"task": {"class": "my_rows.py:MyRows"}, **SMALL, **sections}
    project.config.write_text(yaml.safe_dump(config, sort_keys=False))
    return project


def table(rows: int) -> np.ndarray:
    """[rows, 66]: 64 pixels, the given label and the true one; every tenth given label is wrong."""
    digits = load_digits()
    true = digits.target[:rows]
    given = np.where(np.arange(rows) % 10 == 3, (true + 1) % 10, true)
    return np.column_stack([digits.data[:rows] / 16, given, true])


@contextmanager
def edited(path: Path, content: bytes) -> Iterator[None]:
    """`path` with other content for a while; bytes and times come back."""
    before, stat = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def array_bytes(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def environment() -> dict[str, str]:
    """One thread a process; warnings of third parties are not what these tests are about."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def lowland(*arguments: Any, cwd: Path | None = None, tree: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, its jobs started warm; or by the code in `tree`."""
    command, own = [*COMMAND, *map(str, arguments)], {"PYTHONPATH": str(tree)} if tree else warm.environment()
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd or tree, env={**environment(), **own}, timeout=600
    )


def succeed(*arguments: Any, cwd: Path | None = None, tree: Path | None = None) -> str:
    """What the command prints; it must end well."""
    done = lowland(*arguments, cwd=cwd, tree=tree)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> Any:
        """The output as JSON."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def complaint(self) -> str:
        """The one sentence of a command that found something wrong in the input."""
        assert self.code == 2, (self.code, self.out, self.err)
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("lowland: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0]
        return lines[0].removeprefix("lowland: ")


def ask(*arguments: Any) -> Answer:
    """The command within this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = int(end.code or 0)
    return Answer(code, out.getvalue(), err.getvalue())


def answer_of(done: subprocess.CompletedProcess[str]) -> Answer:
    """A finished process as an answer."""
    return Answer(done.returncode, done.stdout, done.stderr)


def planned(directory: Path, *arguments: Any, tree: Path | None = None) -> set[str]:
    """The artefacts that `lowland run -n` would make, such as gradients/flat/train/00001; by the code in `tree`."""
    return made_by(succeed("run", "--workdir", directory, "--cores", 1, "-n", *arguments, tree=tree))


def copy_of_code(directory: Path) -> Path:
    """The package and the workflow, to be edited."""
    tree = directory / "tree"
    for name in ("pipeline", "stages", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy2(ROOT / "Snakefile", tree)
    return tree


def plainly_planned(directory: Path, config: Path) -> set[str]:
    """The same by plain Snakemake."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", workflow_root() / "Snakefile", "--directory", directory,
               "--configfile", config, "-n"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment(), timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return made_by(done.stdout + done.stderr)


def made_by(text: str) -> set[str]:
    """The outputs in Snakemake's account of a dry run."""
    outputs = re.findall(r"^    output: (.+)$", text, re.MULTILINE)
    return {name.removeprefix("results/").removesuffix(".json") for line in outputs for name in line.split(", ")}


def artefacts(directory: Path) -> set[str]:
    """What a run holds, by its manifests, without what `prepare` leaves and what stands beside a rule's output."""
    results = directory / "results"
    found = {
        str(place.relative_to(results).with_suffix(""))
        for place in results.rglob("*.json")
        if ".zarr" not in str(place)
    }
    beside = {
        "evaluation/relabel",
        "evaluation/recall",
        *(name for name in found if name.startswith("index/") and name.endswith("-rows")),
    }
    return {name for name in found if not name.startswith("prepare/")} - beside
