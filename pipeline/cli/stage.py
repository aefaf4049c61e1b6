"""`lowland stage`: what the workflow's rules call. One job, one stage, one artefact."""

from __future__ import annotations

import contextlib
import importlib
import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from pipeline import config as settings
from pipeline.cli.threads import limit_threads
from pipeline.errors import ConfigError, LowlandError, TaskError
from pipeline.methods import SOLVED
from pipeline.retrainings import SETS
from pipeline.storage.artefact import write_whole
from pipeline.storage.layout import Layout
from pipeline.tasks.names import task_file

WHERE = {
    "projection": ("checkpoint",),
    "member": ("checkpoint",),
    "gradients": ("checkpoint", "split", "shard"),
    "candidates": ("checkpoint", "split", "shard"),
    "curvature": ("checkpoint", "split"),
    "vectors": ("checkpoint", "split"),
    "index": ("checkpoint", "metric"),
    "solve": ("method",),
    "trace": ("method",),
    "retrain": ("set_name", "block"),
    "lds": ("set_name",),
    "retraining": ("set_name",),
}
"""Which artefact of a stage: the options that it needs besides --config."""


@click.command()
@click.argument("name", type=click.Choice(list(settings.STAGES)), metavar="STAGE")
@click.option("--config", "config_json", required=True, help="The sections that the stage reads, as JSON.")
@click.option("--task", "places", help="Where the task's files are, as JSON: no result depends on it.")
@click.option("--whole", help="prepare: the whole configuration as JSON, to be kept for people.")
@click.option(
    "--checkpoint",
    callback=lambda context, option, value: _known(value),
    metavar="|".join(settings.CHECKPOINTS),
    help="gradients: several, separated by commas, are captured in one pass over the rows.",
)
@click.option("--split", type=click.Choice(settings.SPLITS))
@click.option("--shard", help="Name of a shard, such as 00000.")
@click.option("--metric", type=click.Choice(["inner", "cosine"]))
@click.option("--method", type=click.Choice(SOLVED), help="solve, trace: for which estimator.")
@click.option("--set", "set_name", type=click.Choice(SETS), help="Which retrainings.")
@click.option("--block", help="retrain: which of their jobs, such as 00000.")
@click.option("--memory-mb", type=click.IntRange(min=1), help="Memory that it may take. [default: the config's]")
@click.option("--dask", metavar="ADDRESS", help="Scheduler of a dask.distributed cluster for reductions and scans.")
def stage(
    name: str,
    config_json: str,
    places: str | None,
    whole: str | None,
    memory_mb: int | None,
    dask: str | None,
    **where: Any,
) -> None:
    """Run one STAGE in the current directory, as a rule of the workflow does.

    A job's log holds the whole command line: paste it to run the job again. People use `lowland run`.
    """
    missing = [option for option in WHERE.get(name, ()) if where[option] is None]
    if missing:
        raise ConfigError(
            f"expected --{missing[0]} for the stage {name}, got none; copy the command from the job's log"
        )
    if name != "gradients" and "," in (where["checkpoint"] or ""):
        raise ConfigError(f"expected one checkpoint for the stage {name}, got {where['checkpoint']}; run it for each")
    layout = Layout(Path())
    label = "/".join(value for value in (name, *(where[option] for option in WHERE.get(name, ()))) if value)
    try:
        values = json.loads(config_json)
        if places is not None and "task" in values:
            values["task"].update(json.loads(places))
        limit_threads(values.get("compute", {}).get("threads", 1))  # as many as the job reserved
        config = settings.partial(values, memory_mb, dask)
        _run(name, layout, config, whole, label, {key: where[key] for key in WHERE.get(name, ())})
    except LowlandError as error:
        _leave_word(layout, label, error)
        raise


def _known(checkpoints: str | None) -> str | None:
    """Names of checkpoints, separated by commas, each once."""
    names = checkpoints.split(",") if checkpoints else []
    if not all(settings.is_checkpoint(name) for name in names) or len(set(names)) < len(names):
        raise click.BadParameter(
            f"expected some of {', '.join(settings.CHECKPOINTS)}, epoch-1, seed-1, ..., got {checkpoints!r}"
        )
    return checkpoints


def _run(
    name: str, layout: Layout, config: settings.Config, whole: str | None, label: str, where: dict[str, Any]
) -> None:
    if name != "prepare" or importlib.import_module("pipeline.steps.freshness").is_stale(layout, config):
        module = importlib.import_module(f"pipeline.steps.{name}")
        job = importlib.import_module("pipeline.steps.job").Job(name, layout, config, lambda line: _say(label, line))
        with _users_own(name, config):
            module.run(job, **where)
    _keep_config(layout, whole)


@contextmanager
def _users_own(name: str, config: settings.Config) -> Iterator[None]:
    """An exception from the user's task file is theirs to mend, wherever it comes up; all others are ours.

    Raises:
        TaskError: with the line.
    """
    try:
        yield
    except LowlandError:
        raise
    except Exception as error:
        theirs = "task" in settings.STAGES[name] and ".py:" in config.task.class_
        file = task_file(config.task.class_) if theirs else None
        if file is None or not any(Path(frame.filename) == file for frame in traceback.extract_tb(error.__traceback__)):
            raise
        from pipeline.tasks.blame import blame

        raise TaskError(
            f"expected {file.name} to work in the stage {name}, got {blame(error, file)}; mend that line"
        ) from error


def _say(label: str, line: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')} {label}: {line}", err=True)


def _keep_config(layout: Layout, whole: str | None) -> None:
    """Keep the resolved configuration beside the plan, for people and for commands that answer later."""
    if whole is None:
        return
    import yaml

    text = yaml.safe_dump(json.loads(whole), sort_keys=False)
    if not layout.config.is_file() or layout.config.read_text(encoding="utf-8") != text:
        write_whole(layout.config, text)


def _leave_word(layout: Layout, label: str, error: LowlandError) -> None:
    """Leave the message where `lowland run` finds it when the workflow has stopped."""
    place = layout.results / "failure.json"
    with contextlib.suppress(OSError):  # the message itself is on stderr and in the log
        write_whole(place, json.dumps({"stage": label, "message": str(error), "exit_code": error.exit_code}))
