"""The three repairs, on the plugin's own functions, and what is refused before anything is touched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.cli import slurm
from pipeline.cli.run import executor_of
from pipeline.config import workflow_root
from pipeline.errors import ConfigError


def test_what_runs_the_jobs_is_read_from_arguments_and_profile() -> None:
    profiles = workflow_root() / "configs" / "profiles"
    assert executor_of(["--cores", "2"]) == "local"
    assert executor_of(["--workflow-profile", str(profiles / "local")]) == "local"
    assert executor_of(["--workflow-profile", str(profiles / "slurm")]) == "slurm"
    assert executor_of(["--workflow-profile", str(profiles / "slurm"), "--executor", "lsf"]) == "lsf"


def test_without_the_plugin_or_sbatch_nothing_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(slurm, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"expected Snakemake's plugin for Slurm, got none installed; pip install"):
        slurm.check_available()
    monkeypatch.setattr(slurm, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="expected sbatch in PATH, got none"):
        slurm.check_available()


def test_a_query_that_fails_says_that_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)
    logger = logging.getLogger("test")
    assert asyncio.run(plugin.query_job_status("false", logger)) == (None, None)
    slurm.keep_jobs_when_a_query_fails()
    assert asyncio.run(plugin.query_job_status("false", logger)) == ({}, 0.0)
    assert asyncio.run(plugin.query_job_status("echo 7|RUNNING", logger))[0] == {"7": "RUNNING"}


def test_a_job_that_squeue_has_not_named_for_long_counts_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = pytest.importorskip("snakemake_executor_plugin_slurm")
    squeue: dict[str, str] | None = {}

    async def query(command: str, logger: logging.Logger) -> tuple[dict[str, str] | None, float | None]:
        return squeue, None if squeue is None else 0.1

    async def check(self: object, jobs: list[SimpleNamespace]) -> AsyncIterator[object]:
        yield (await plugin.query_job_status(self, logging.getLogger("test")))[0]

    monkeypatch.setattr(plugin, "query_job_status", query)
    monkeypatch.setattr(plugin.Executor, "check_active_jobs", check)
    now = [0.0]
    monkeypatch.setattr(slurm.time, "monotonic", lambda: now[0])
    slurm.give_up_lost_jobs()

    async def known(command: str, *jobs: str) -> object:
        active = [SimpleNamespace(external_jobid=job) for job in jobs]
        return await anext(plugin.Executor.check_active_jobs(command, active))

    assert asyncio.run(known("squeue --x", "1", "2")) == {}
    now[0], squeue = 29, {"2": "RUNNING"}
    assert asyncio.run(known("squeue --x", "1", "2")) == {"2": "RUNNING"}
    now[0] = 31
    assert asyncio.run(known("sacct --x", "1", "2")) == {"2": "RUNNING"}
    assert asyncio.run(known("squeue --x", "1", "2")) == {"1": "FAILED", "2": "RUNNING"}
    squeue = None
    assert asyncio.run(known("squeue --x", "1", "2")) is None
    now[0], squeue = 50, {}
    assert asyncio.run(known("squeue --x", "2")) == {}


def test_the_pause_is_bounded_and_a_shorter_one_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    remote = pytest.importorskip("snakemake_interface_executor_plugins.executors.remote").RemoteExecutor
    monkeypatch.setattr(remote, "sleep", remote.sleep)
    slept = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(slurm.asyncio, "sleep", sleep)
    slurm.bound_the_pause(5)
    for pause in (None, 2, 180):
        asyncio.run(remote.sleep(SimpleNamespace(next_seconds_between_status_checks=pause)))
    assert slept == [5, 2, 5]
