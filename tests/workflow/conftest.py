"""Whole runs, computed once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.workflow.runs import Project, new_project, succeed


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Stages that run in this process set the number of threads."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A user's own project and its run."""
    made = new_project(tmp_path_factory.mktemp("project"))
    succeed("run", "-c", made.config, "--workdir", made.run, "--cores", 2)
    return made


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the default configuration: `make demo`."""
    directory = tmp_path_factory.mktemp("demo") / "run"
    succeed("run", "--workdir", directory, "--cores", 2)
    return directory
