"""The cluster in the hands of a test: what its jobs are, and what can go wrong with it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

HERE = Path(__file__).parent


@dataclass(frozen=True)
class SlurmJob:
    """A job that runs: its id, its node, and the name of its rule or group."""

    id: str
    node: str
    name: str


@dataclass(frozen=True)
class Cluster:
    """A cluster that slurm-up started."""

    directory: Path
    environment: dict[str, str]

    def up(self) -> None:
        """Start what is not running."""
        done = subprocess.run([HERE / "slurm-up"], env=self.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        environment = {**self.environment, "SLURM_CONF": str(self.directory / "slurm.conf")}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout

    def running(self, name: str) -> list[SlurmJob]:
        """Jobs that run of a rule or group."""
        lines = (line.split(maxsplit=2) for line in self.ask("squeue", "-h", "-t", "R", "-o", "%A %N %k").splitlines())
        return [SlurmJob(*line) for line in lines if f"rule_{name}" in line[2]]

    def waiting_for(self, name: str, seconds: float = 900) -> SlurmJob:
        """A running job of a rule or group, as soon as there is one."""
        return until(lambda: self.running(name), seconds, f"a job of {name}")[0]

    def requested_mb(self, job: str) -> str:
        """What a job may take, in Slurm's words."""
        facts = dict(word.split("=", 1) for word in self.ask("scontrol", "show", "job", job).split() if "=" in word)
        return facts["MinMemoryNode"]

    def cancel(self, job: str) -> None:
        """As its user, or the administrator, would."""
        self.ask("scancel", job)

    def cancel_all(self) -> None:
        """What a test has left."""
        for job in self.ask("squeue", "-h", "-o", "%A").split():
            self.cancel(job)

    def lose(self, node: str) -> None:
        """A node goes down: its slurmd, the job steps there and all that they run are killed."""
        kill(self._daemon(f"slurmd.{node}"))
        there = [process for process in psutil.process_iter() if self._is_on(process, node)]
        steps = {parent for process in there for parent in process.parents() if parent.name() == "slurmstepd"}
        for process in (*steps, *there):
            kill(process.pid)

    def _is_on(self, process: psutil.Process, node: str) -> bool:
        """Whether a process belongs to a job on a node."""
        try:
            facts = process.environ()
        except psutil.Error:
            return False
        return facts.get("SLURMD_NODENAME") == node and str(self.directory) in facts.get("PATH", "")

    def _daemon(self, name: str) -> int:
        return int((self.directory / "pid" / name).read_text(encoding="ascii").split()[0])

    def away(self, seconds: float) -> None:
        """The controller is away for a while."""
        kill(self._daemon("slurmctld"))
        time.sleep(seconds)
        self.up()


def kill(process: int) -> None:
    """-9."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


T = TypeVar("T")


def until(look: Callable[[], T], seconds: float, what: str) -> T:
    """What `look` returns as soon as it is something."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.25)
    return found
