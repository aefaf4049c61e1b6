"""The workflow on a real Slurm: the same stores and answers as on this machine, whatever happens to jobs, nodes and controller."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import workflow_root
from tests.cluster.cluster import Cluster, until
from tests.workflow.runs import COMMAND, Project, answer_of, environment, lowland, new_project
from tests.workflow.same import differences, faults

pytestmark = pytest.mark.cluster

MOST_JOBS = 10
"""Jobs of the project's run, of 26 stages and shards: two checkpoints, two projections, gradients and candidates, one for the rest."""


class Submitted:
    """A `lowland run` on the cluster, which a test watches."""

    def __init__(self, run: Path, profile: Path, *arguments: str) -> None:
        self.run, self.log = run, run.with_suffix(".log")
        command = [*COMMAND, "run", "--workdir", str(run), "--profile", str(profile), *arguments]
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, stdout=stream, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
            )

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def finish(self, seconds: float = 1800) -> None:
        """It must end well."""
        assert self.process.wait(seconds) == 0, self.said

    def kill(self) -> None:
        """-9, with all that it has started on this machine; nothing where it has ended."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def submit(cluster: Cluster) -> Iterator[Callable[..., Submitted]]:
    """Starts a run on the cluster; whatever the test comes to, it does not outlive it."""
    runs: list[Submitted] = []

    def start(*arguments: Any) -> Submitted:
        runs.append(Submitted(*arguments))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
    cluster.cancel_all()


Submit = Callable[..., Submitted]


def check_same(local: Path, run: Path) -> None:
    assert differences(local, run) == []
    assert faults(run) == []


def test_stores_and_answers_are_those_of_this_machine_through_faults(
    cluster: Cluster, submit: Submit, project: Project, profile: Path, tmp_path: Path
) -> None:
    submitted = submit(tmp_path / "run", profile, "-c", str(project.config))
    cancelled = cluster.waiting_for("gradients")
    cluster.cancel(cancelled.id)
    until(lambda: "Trying to restart" in submitted.said, 240, "the cancelled job anew")
    lost = until(lambda: [job for job in cluster.running("") if job.id != cancelled.id], 120, "another job")[0]
    cluster.lose(lost.node)
    cluster.away(20)
    submitted.finish()
    assert submitted.said.count("Trying to restart") >= 2
    check_same(project.run, submitted.run)


def last_job(cluster: Cluster) -> int:
    """The number of the newest job."""
    return max(map(int, cluster.ask("squeue", "-h", "-t", "all", "-o", "%A").split()), default=0)


GREEDY = '''"""Takes memory beyond its plan while it trains."""

import time

from my_rows import MyRows


class Greedy(MyRows):
    def train(self, model):
        held = bytearray(b"x") * (2000 << 20)
        time.sleep(8)
        super().train(model)
'''


@pytest.mark.long
def test_a_job_that_takes_too_much_memory_comes_back_with_more(
    cluster: Cluster, submit: Submit, project: Project, profile: Path, tmp_path: Path
) -> None:
    greedy = new_project(tmp_path / "greedy", task={"class": "greedy.py:Greedy"}, compute={"memory_mb": 200})
    (greedy.directory / "greedy.py").write_text(GREEDY, encoding="utf-8")
    before = last_job(cluster)
    submitted = submit(greedy.run, profile, "-c", str(greedy.config), "--until", "train")
    submitted.finish()
    first, second = (cluster.requested_mb(str(before + number)) for number in (1, 2))
    assert (first, second) == ("2200M", "3300M"), submitted.said
    assert (greedy.run / "results/checkpoints/trained.json").is_file()


@pytest.mark.long
def test_jobs_that_outlive_a_killed_run_are_named_and_the_next_run_finishes(
    cluster: Cluster, submit: Submit, project: Project, profile: Path, tmp_path: Path
) -> None:
    """It does so in few jobs: shards of gradients share one, and so do the nine stages after them."""
    killed = submit(tmp_path / "run", profile, "-c", str(project.config))
    job = cluster.waiting_for("")
    killed.kill()
    for option in ((), ("--unlock",)):
        complaint = answer_of(lowland("run", "--workdir", killed.run, *option)).complaint
        assert f"got the Slurm jobs {job.id} of an earlier run" in complaint and f"`scancel {job.id}`" in complaint
    cluster.cancel(job.id)
    until(lambda: not cluster.ask("squeue", "-h", "-o", "%A").split(), 60, "the end of its jobs")
    before = last_job(cluster)
    finished = submit(killed.run, profile)
    finished.finish()
    assert re.search(
        r"process \d+ on \S+, started .* is gone, and so are its jobs: its lock was removed", finished.said
    )
    assert last_job(cluster) - before <= MOST_JOBS
    check_same(project.run, killed.run)


@pytest.mark.long
def test_plain_snakemake_takes_the_profile(cluster: Cluster, project: Project, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow_root() / "Snakefile"), "--directory",
               str(tmp_path / "run"), "--configfile", str(project.config), "--workflow-profile",
               str(workflow_root() / "configs/profiles/slurm")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=1800, cwd=workflow_root())
    assert done.returncode == 0, done.stdout + done.stderr
    check_same(project.run, tmp_path / "run")


FAULTS: dict[str, Callable[[Cluster], None]] = {
    "a running shard is cancelled": lambda cluster: cluster.cancel(cluster.waiting_for("gradients").id),
    "a node goes down": lambda cluster: cluster.lose(cluster.waiting_for("").node),
    "the controller is away for a minute": lambda cluster: cluster.away(60),
}


@pytest.mark.long
def test_the_demonstration_survives_everything(cluster: Cluster, submit: Submit, profile: Path, tmp_path: Path) -> None:
    done = lowland("run", "--workdir", tmp_path / "local", "--cores", 2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    submitted = submit(tmp_path / "run", profile)
    for what, harm in FAULTS.items():
        harm(cluster)
        assert submitted.process.poll() is None, f"it ended before {what}: {submitted.said}"
    submitted.finish(3600)
    check_same(tmp_path / "local", submitted.run)
