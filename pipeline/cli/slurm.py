"""Snakemake's command line with two repairs of its Slurm plugin: `python -m pipeline.cli.slurm ARGUMENTS`.

Both faults were met in snakemake-executor-plugin-slurm 2.8.0 with Snakemake 9.27.1, and are worked around here until a
version mends them. Only the process that submits needs this; the jobs themselves run plain Snakemake.

1. Where a status query fails five times within a second (slurmctld is restarted), the plugin drops the list of its
   running jobs and waits for ever. Here a failed query says that nothing is known yet, and is asked again.
2. The pause between queries grows by ten seconds whenever nothing has ended, up to three minutes, which short jobs then
   wait to be noticed. Here it is bounded by `LOWLAND_POLL_SECONDS`, 60 by default.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from importlib.util import find_spec
from typing import Any

from pipeline.errors import ConfigError

POLL_S = 60.0


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

    keep_jobs_when_a_query_fails()
    bound_the_pause(float(os.environ.get("LOWLAND_POLL_SECONDS", POLL_S)))
    sys.argv[0] = "snakemake"
    snakemake()


if __name__ == "__main__":
    main()
