"""`lowland plan`: what would be recomputed, why, and what that takes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from pipeline import config as settings
from pipeline.cli.common import JSON, show
from pipeline.cli.run import command_of, fail, keep_config
from pipeline.cli.untouched import given_back
from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.steps.forecast import CAPTURES, Forecast, Planned, forecast
from pipeline.steps.reasons import words
from pipeline.storage.layout import Layout

FIELD = re.compile(r"^    (\w+): (.*)$", re.MULTILINE)
RULE = re.compile(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", re.MULTILINE)
NAMING = ("follows from ", "changed since: ")
MB = 10**6


@click.command()
@click.argument("run", type=click.Path(path_type=Path), metavar="[RUN]", required=False)
@click.option("-c", "--config", "config_file", type=click.Path(path_type=Path), help="As for `lowland run`.")
@JSON
def plan(run: Path | None, config_file: Path | None, as_json: bool) -> None:
    """Say what `lowland run` would recompute, and why, with time, memory and bytes. Nothing is changed.

    Time and memory are those of earlier jobs, a row at a time; of stages that have never run, operations are counted.

    \b
    lowland plan runs/my                what the data and code as they are now call for
    lowland plan runs/my -c other.yaml  what another config would
    """
    if run is None and config_file is None:
        raise DataError("expected a run, or a config by -c, got neither; give one")
    directory = run or Path("runs") / (config_file.stem if config_file else "")
    with given_back(directory, always=True):
        config = keep_config(config_file, directory)
        jobs = planned_jobs(directory)
        layout = Layout(directory)
        taken = forecast(layout, Plan.load(layout.plan), config, jobs, _operations(layout, config, jobs))
    if as_json:
        click.echo(json.dumps(_everything(jobs, taken), indent=1))
    else:
        _print(jobs, taken)


def planned_jobs(directory: Path) -> list[Planned]:
    """The jobs of a dry run, in the order of the flow."""
    (Layout(directory).results / "failure.json").unlink(missing_ok=True)
    command = command_of(directory, ["--cores", "1", "--dry-run"], [])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        fail(directory, done.returncode, done.stderr.splitlines(keepends=True))
    order = list(settings.STAGES)
    return sorted(read_jobs(done.stdout + done.stderr), key=lambda job: (order.index(job.stage), job.artefact))


def read_jobs(text: str) -> Iterator[Planned]:
    """Jobs in Snakemake's account of a dry run, each once."""
    for rule, body in dict.fromkeys(RULE.findall(text)):
        fields = dict(FIELD.findall(body))
        if rule in settings.STAGES:
            artefact = fields["output"].split(", ")[0].removeprefix("results/").removesuffix(".json")
            reserved = re.search(r"mem_mb=(\d+)", fields.get("resources", ""))
            yield Planned(rule, artefact, tuple(words(fields["reason"])), int(reserved[1]) if reserved else 0)


def _operations(layout: Layout, config: settings.Config, jobs: Sequence[Planned]) -> int:
    """Operations of a forward pass, where captures have never been measured."""
    if not any(job.stage in CAPTURES for job in jobs) or any(layout.results.glob("gradients/*/*/*.json")):
        return 0
    from pipeline.steps.tasks import load_task
    from pipeline.tasks.cost import forward_operations

    return forward_operations(load_task(config.task))


def _everything(jobs: Sequence[Planned], taken: Sequence[Forecast]) -> dict[str, Any]:
    each = [{**asdict(job), **asdict(cost)} for job, cost in zip(jobs, taken, strict=True)]
    return {"jobs": each, "total": _total(taken)}


def _total(taken: Sequence[Forecast]) -> dict[str, Any]:
    return {
        "jobs": len(taken),
        "seconds": round(sum(cost.seconds or 0 for cost in taken), 1),
        "unknown": sum(cost.seconds is None for cost in taken),
        "bytes": sum(cost.bytes or 0 for cost in taken),
        "memory_mb": max((cost.memory_mb for cost in taken), default=0),
    }


def _together(reasons: Iterable[str]) -> Iterator[str]:
    """Each reason once; those that name artefacts with all of their names."""
    named: dict[str, dict[str, None]] = {}
    for reason in reasons:
        begin = next((each for each in NAMING if reason.startswith(each)), reason)
        names = reason.removeprefix(begin).split(", ") if begin != reason else []
        named.setdefault(begin, {}).update(dict.fromkeys(names))
    return (begin + ", ".join(names) for begin, names in named.items())


def _print(jobs: Sequence[Planned], taken: Sequence[Forecast]) -> None:
    """A line a stage, and below it why."""
    rows, why = [], []
    for stage in dict.fromkeys(job.stage for job in jobs):
        own = [(job, cost) for job, cost in zip(jobs, taken, strict=True) if job.stage == stage]
        costs = [cost for _, cost in own]
        captured = sum(cost.rows for cost in costs) if stage in CAPTURES else None
        copied = sum(cost.copied for cost in costs) if stage in CAPTURES else None
        total, bases = _total(costs), dict.fromkeys(cost.basis for cost in costs)
        rows.append({"stage": stage, "jobs": len(own), "rows captured": captured, "rows copied": copied,
                     "seconds": None if total["unknown"] == len(own) else total["seconds"],
                     "MB written": None if all(cost.bytes is None for cost in costs) else total["bytes"] / MB,
                     "MB of memory": total["memory_mb"], "rates": ", ".join(bases)})  # fmt: skip
        why.append(f"{stage}: {'; '.join(_together(reason for job, _ in own for reason in job.why))}")
    total = _total(taken)
    show(rows, False, f"{total['jobs']} jobs, {total['seconds']:.0f} s of work, {total['bytes'] / MB:.4g} MB to write; "
                      "seconds are of one job after another")  # fmt: skip
    for line in why:
        click.echo(line)
