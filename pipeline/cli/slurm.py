"""Snakemake's command line with three repairs of its Slurm plugin: `python -m pipeline.cli.slurm ARGUMENTS`.

These faults were met in snakemake-executor-plugin-slurm 2.8.0 with Snakemake 9.27.1, and are worked around here until a
version mends them. Only the process that submits needs this; the jobs themselves run plain Snakemake.

1. Where a status query fails five times within a second (slurmctld is restarted), the plugin drops the list of its
   running jobs and waits for ever. Here a failed query says that nothing is known yet, and is asked again.
2. The pause between queries grows by ten seconds whenever nothing has ended, up to three minutes, which short jobs then
   wait to be noticed. Here it is bounded by `LOWLAND_POLL_SECONDS`, 60 by default.
3. A job that Slurm no longer knows is waited for for ever: a controller that is killed has not yet saved what was
   submitted in its last seconds, and one that is away forgets what ended before `MinJobAge`. Here such a job counts as
   failed once squeue has not named it for `LOST_S`, so that it is submitted again. (A node stops what its controller
   does not know.)
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterable
from importlib.util import find_spec
from typing import Any

from pipeline.errors import ConfigError

POLL_S = 60.0
LOST_S = 30.0
"""Seconds without a word of squeue's on a job after which it is taken for lost."""


def check_available() -> None:
    """Refuse before anything is touched what could submit nothing.

    Raises:
        ConfigError: the plugin or Slurm's own command is missing.
    """
    if find_spec("snakemake_executor_plugin_slurm") is None:
        raise ConfigError("expected Snakemake's plugin for Slurm, got none installed; pip install 'lowland[slurm]'")
    if shutil.which("sbatch") is None:
        raise ConfigError("expected sbatch in PATH, got none; run where jobs can be submitted to Slurm")


def keep_jobs_when_a_query_fails() -> None:
    """Repair 1."""
    import snakemake_executor_plugin_slurm as plugin

    ask = plugin.query_job_status

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str], float]:
        status, seconds = await ask(command, logger)
        if status is None:
            logger.warning("Slurm did not say how its jobs are; they will be asked after again.")
            return {}, 0.0
        return status, seconds

    plugin.query_job_status = query_job_status


class Roll:
    """Which jobs are waited for, and since when squeue has not named them."""

    def __init__(self) -> None:
        self.active: set[str] = set()
        self._missing: dict[str, float] = {}

    def lost(self, named: Iterable[str], now: float) -> list[str]:
        """Jobs that squeue, which names some at a moment [s], has not named for long."""
        missing = self.active - set(named)
        self._missing = {job: self._missing.get(job, now) for job in missing}
        return sorted(job for job, since in self._missing.items() if now - since >= LOST_S)


def give_up_lost_jobs() -> None:
    """Repair 3; before repair 1, which makes of a query that failed one that names no job."""
    import snakemake_executor_plugin_slurm as plugin

    roll = Roll()
    ask, check = plugin.query_job_status, plugin.Executor.check_active_jobs

    async def query_job_status(command: str, logger: Any) -> tuple[dict[str, str] | None, float | None]:
        status, seconds = await ask(command, logger)
        if status is None or not command.startswith("squeue"):  # sacct may name a job late
            return status, seconds
        lost = roll.lost(status, time.monotonic())
        for job in lost:
            logger.warning(f"Slurm no longer knows its job {job}: it counts as failed.")
        return {**status, **dict.fromkeys(lost, "FAILED")}, seconds

    async def check_active_jobs(self: Any, active_jobs: list[Any]) -> AsyncIterator[Any]:
        roll.active = {job.external_jobid for job in active_jobs}
        async for job in check(self, active_jobs):
            yield job

    plugin.query_job_status = query_job_status
    plugin.Executor.check_active_jobs = check_active_jobs


def bound_the_pause(seconds: float) -> None:
    """Repair 2."""
    from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

    async def sleep(self: RemoteExecutor) -> None:
        pause = self.next_seconds_between_status_checks
        await asyncio.sleep(seconds if pause is None else min(seconds, pause))

    RemoteExecutor.sleep = sleep


def main() -> None:
    """Repair, then do what `snakemake` does."""
    from snakemake.cli import main as snakemake

    give_up_lost_jobs()
    keep_jobs_when_a_query_fails()
    bound_the_pause(float(os.environ.get("LOWLAND_POLL_SECONDS", POLL_S)))
    sys.argv[0] = "snakemake"
    snakemake()


if __name__ == "__main__":
    main()
