"""A real Slurm with three nodes on this machine, for the session."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cluster import HERE, Cluster
from tests.workflow.runs import Project, new_project, succeed

NODES = 3


def free_ports(count: int) -> int:
    """The first of some ports in a row that nobody listens on."""
    for first in range(26817, 29817, 10):
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise RuntimeError("expected free ports from 26817, got none")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster; its commands are first in PATH, as on a machine from which one submits."""
    directory = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: the paths of its sockets are limited
    settings = {
        "SLURM_UP_DIR": str(directory), "SLURM_UP_PORT": str(free_ports(NODES + 1)), "SLURM_UP_NODES": str(NODES),
        "SLURM_UP_NODE_TIMEOUT": "10",
    }  # fmt: skip
    made = Cluster(directory, {**os.environ, **settings})
    try:
        made.up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", f"{directory / 'bin'}:{os.environ['PATH']}")
            patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
            patch.setenv("LOWLAND_POLL_SECONDS", "2")  # jobs here are short
            yield made
    finally:
        subprocess.run([HERE / "slurm-down"], env=made.environment, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A user's own project and its run on this machine, as tests/workflow has it."""
    made = new_project(tmp_path_factory.mktemp("project"))
    succeed("run", "-c", made.config, "--workdir", made.run, "--cores", 2)
    return made


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The profile, with pauses for short jobs."""
    return quick_profile(tmp_path / "profile")


def quick_profile(directory: Path) -> Path:
    """A copy of the profile as its user makes one: the partition named, pauses shorter."""
    text = (HERE.parents[1] / "configs/profiles/slurm/config.yaml").read_text(encoding="utf-8")
    for before, after in {
        "status-checks: 20": "status-checks: 2",
        "latency-wait: 60": "latency-wait: 15",
        "  runtime: 60": "  runtime: 60\n  slurm_partition: main",
    }.items():
        assert before in text
        text = text.replace(before, after)
    directory.mkdir()
    (directory / "config.yaml").write_text(text, encoding="utf-8")
    return directory
