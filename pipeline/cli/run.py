"""`lowland run`: the workflow, driven through Snakemake."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml

from pipeline import config as settings
from pipeline.cli import slurm
from pipeline.cli.clock import settle
from pipeline.cli.forks import forking
from pipeline.cli.locks import LOCAL, SLURM, check_free, held, unlock
from pipeline.cli.untouched import UnplannedError, given_back
from pipeline.errors import CapacityError, ConfigError, InputError, LowlandError
from pipeline.steps.code import accept
from pipeline.storage.artefact import KEPT, read_manifest, tidy, write_whole
from pipeline.storage.layout import Layout
from pipeline.warm import SERVER

CHATTER = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Using shell:",
    "Select jobs to execute",
    "Execute ",
    "Elapsed time:",
    "Complete log(s):",
    "Config file ",
)
"""How lines of Snakemake's begin that repeat themselves at every job."""

TROUBLE = (
    "lowland: ",
    "RuleException",
    "CalledProcessError",
    "Command '",
    "WorkflowError",
    "At least one job",
    "Shutting down",
    "Exiting because",
)
"""How lines begin that surround a failed job; they are said only where the job's own sentence is not known."""


STAGE = click.Choice([name for name in settings.STAGES if name != "prepare"])


@click.command()
@click.option(
    "-c",
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Your YAML file; it names only what differs from the defaults. [default: the run's own config.yaml, if any]",
)
@click.option(
    "--workdir",
    type=click.Path(path_type=Path),
    help="Directory of the run. [default: runs/NAME for -c NAME.yaml, else runs/demo]",
)
@click.option("--cores", type=click.IntRange(min=1), help="Cores to use. [default: all, or what the profile says]")
@click.option("--until", type=STAGE, metavar="STAGE", help="Stop after this stage.")
@click.option(
    "--force", type=STAGE, metavar="STAGE", multiple=True, help="Run this stage again, and what follows from it."
)
@click.option(
    "--refit", is_flag=True, help="Start anew: train, flatten and fit the projection again on the rows as they are now."
)
@click.option(
    "--accept-code",
    is_flag=True,
    help="Take artefacts made by older code for current: you know that an edit changed no result.",
)
@click.option("-n", "--dry-run", is_flag=True, help="Say what would run and why, and stop.")
@click.option("--unlock", is_flag=True, help="Remove the lock that a killed run has left, and stop.")
@click.option("--dask", metavar="ADDRESS", help="Reductions and scans on a running dask cluster: tcp://HOST:8786.")
@click.option("--profile", help="How to run: local, slurm, or a directory with a Snakemake profile.")
@click.argument("snakemake_arguments", nargs=-1, type=click.UNPROCESSED)
def run(config_file: Path | None, workdir: Path | None, **options: Any) -> None:
    """Compute everything that a config asks for; what is there and still valid is kept.

    Stages, in order: train, flatten, projection, gradients, candidates, curvature, vectors, index, scores, query,
    evaluate, report. Run it again after a change, a crash or new data: only what depends on the difference is computed.

    \b
    lowland run                                   the built-in demonstration
    lowland run -c my.yaml --workdir runs/my      your model
    lowland run --workdir runs/my --force index   one stage again, and what follows
    lowland run --workdir runs/my -n              only say what would be done

    Arguments after -- go to Snakemake.
    """
    directory = workdir or Path("runs") / (config_file.stem if config_file else "demo")
    if options["unlock"]:
        return unlock(directory)
    arguments = arguments_of(options)
    if executor_of(arguments) == SLURM and not options["dry_run"]:
        slurm.check_available()
    given_config(config_file, directory)  # a fault in it is found before the directory is touched
    with held(directory, executor_of(arguments)), given_back(directory, always=options["dry_run"]):
        _run(config_file, directory, options, arguments)


def _run(config_file: Path | None, directory: Path, options: dict[str, Any], arguments: list[str]) -> None:
    if config_file is None and not (directory / "config.yaml").is_file():
        click.echo("no config given: this is the built-in demonstration (digits); -c names yours", err=True)
    config = keep_config(config_file, directory)
    tidy(Layout(directory).plan.parent)
    if options["accept_code"]:
        for stage in accept(config, directory, _recorded_code(Layout(directory))):
            click.echo(f"accepted: what {stage} has made stands, though its code has changed", err=True)
    if not options["dry_run"]:
        _forget(directory, options["force"])
    if executor_of(arguments) != LOCAL:
        arguments = ["--cores", str(config.compute.threads), *arguments]  # of one job
    drive(directory, arguments, dry_run=options["dry_run"])
    if not options["dry_run"] and not options["until"]:
        click.echo(f"report: {Layout(directory).report}")


def _forget(directory: Path, stages: Iterable[str]) -> None:
    """Let nothing be taken over from what these stages made before: forced is computed, not copied."""
    for stage in stages:
        for kept in (Layout(directory).results / stage).rglob(KEPT):
            kept.unlink()


def given_config(config_file: Path | None, directory: Path) -> settings.Config:
    """The configuration of a file, else of the run, else the defaults."""
    own = directory / "config.yaml"
    return settings.load(config_file or (own if own.is_file() else None))


def keep_config(config_file: Path | None, directory: Path) -> settings.Config:
    """Check the configuration before anything is touched, and keep it as the run's own."""
    own = directory / "config.yaml"
    config = given_config(config_file, directory)
    if config_file is not None:
        overlay = settings.read_yaml(config_file)
        anchored = {key: value for key, value in config.task.model_dump(by_alias=True).items()
                    if key in (*overlay.get("task", {}), "directory")}  # fmt: skip
        text = yaml.safe_dump({**overlay, "task": anchored}, sort_keys=False)
        if not own.is_file() or own.read_text(encoding="utf-8") != text:
            write_whole(own, text)
    directory.mkdir(parents=True, exist_ok=True)
    return config


def arguments_of(options: dict[str, Any]) -> list[str]:
    """Our options in Snakemake's words."""
    arguments: list[str] = []
    if options["cores"] or not options["profile"]:  # a profile says it itself; on a cluster it bounds one job
        arguments += ["--cores", str(options["cores"])] if options["cores"] else all_cores()
    forced = [*options["force"], *(["train", "projection"] if options["refit"] else [])]
    if forced:
        arguments += ["--forcerun", *forced]
    if options["until"]:
        arguments += ["--until", options["until"]]
    if options["dry_run"]:
        arguments += ["--dry-run"]
    if options["profile"]:
        arguments += ["--workflow-profile", str(_profile(options["profile"]))]
    if options["dask"]:
        arguments += ["--config", f"compute={json.dumps({'dask': options['dask']})}"]
    return [*arguments, *options["snakemake_arguments"]]


def _profile(name: str) -> Path:
    path = Path(name) if "/" in name else settings.workflow_root() / "configs" / "profiles" / name
    if not (path / "config.yaml").is_file():
        known = sorted(place.name for place in path.parent.glob("*") if place.is_dir())
        raise ConfigError(f"expected a profile with a config.yaml, got {path}; there are: {', '.join(known) or 'none'}")
    return path.resolve()


def executor_of(arguments: list[str]) -> str:
    """What runs the jobs, by Snakemake's arguments: its own processes, or a plugin that submits them."""
    for name in ("--executor", "-e"):
        if name in arguments[:-1]:
            return arguments[arguments.index(name) + 1]
    if "--workflow-profile" in arguments:
        profile = settings.read_yaml(Path(arguments[arguments.index("--workflow-profile") + 1]) / "config.yaml")
        return str(profile.get("executor", LOCAL))
    return LOCAL


def all_cores() -> list[str]:
    """The argument that lets Snakemake use the whole machine."""
    return ["--cores", str(os.cpu_count() or 1)]


def drive(directory: Path, arguments: list[str], targets: list[str] | None = None, dry_run: bool = False) -> None:
    """Run Snakemake in the run's directory.

    Raises:
        UnplannedError: the plan could not be made.
        InputError: a stage found something in the input to mend, or another run is at work.
        SystemExit: the configuration is wrong; this has been said, and no job has run.
        LowlandError: the workflow failed otherwise.
    """
    failure = Layout(directory).results / "failure.json"
    failure.unlink(missing_ok=True)
    settle(Layout(directory).results)
    quiet = [] if dry_run else ["--quiet", "progress", "rules", "host"]
    command = command_of(directory, [*quiet, *arguments], targets or [])
    said: list[str] = []
    if dry_run:
        code = subprocess.run(command).returncode
    else:
        with _servers(directory, arguments) as environment:
            code, said = _run_quietly(command, environment)
    if code == 0:
        failure.unlink(missing_ok=True)  # of a job that was tried again and succeeded
        return
    if dry_run and failure.is_file():
        sys.exit(json.loads(failure.read_text(encoding="utf-8"))["exit_code"])  # it has said why
    fail(directory, code, said)


def _servers(directory: Path, arguments: list[str]) -> AbstractContextManager[dict[str, str]]:
    """The environment of Snakemake: with a server of forks on this machine, without any on others."""
    if executor_of(arguments) == LOCAL:
        return forking(given_config(None, directory).compute.threads)
    return nullcontext({name: value for name, value in os.environ.items() if name != SERVER})


def fail(directory: Path, code: int, said: list[str]) -> NoReturn:
    """End with what went wrong in a workflow: as a stage left word, or as Snakemake said."""
    failure = Layout(directory).results / "failure.json"
    if failure.is_file():
        raise _failure(json.loads(failure.read_text(encoding="utf-8")))
    click.echo("".join(line for line in said if line.startswith(TROUBLE)), nl=False, err=True)
    if code == InputError.exit_code:
        sys.exit(code)  # the Snakefile has said why
    if any("Directory cannot be locked" in line for line in said):
        check_free(directory, alone=True)
    if any(os.strerror(errno.ENOSPC) in line for line in said):
        raise CapacityError(f"expected room on disk for {directory}, got a full disk; free some and run again")
    raise LowlandError(
        f"expected the workflow to finish, got exit code {code} from Snakemake; its last lines say why, the logs are "
        f"in {directory / 'logs'}"
    )


def command_of(directory: Path, arguments: list[str], targets: list[str]) -> list[str]:
    """Snakemake's command line for a run."""
    snakefile = settings.workflow_root() / "Snakefile"
    module = "pipeline.cli.slurm" if executor_of(arguments) == SLURM else "snakemake"
    return [sys.executable, "-m", module, "--snakefile", str(snakefile), "--directory", str(directory),
            "--rerun-incomplete", *arguments, "--", *targets]  # fmt: skip


def _failure(value: dict[str, Any]) -> LowlandError:
    """What a failed stage left, as an error."""
    if value["stage"] == "prepare":
        return UnplannedError(value["message"])
    kind = InputError if value["exit_code"] == InputError.exit_code else LowlandError
    return kind(f"{value['stage']}: {value['message']}")


def _run_quietly(command: list[str], environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run Snakemake, saying on stderr what it says but for `CHATTER` and `TROUBLE`; its exit code and all lines."""
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        for line in process.stdout or ():
            said.append(line)
            if not line.startswith((*CHATTER, *TROUBLE)):
                click.echo(line, nl=False, err=True)
    return process.returncode, said


def _recorded_code(layout: Layout) -> dict[str, str]:
    """The code digest that each stage's artefacts were made with."""
    recorded = {}
    for manifest in layout.results.rglob("*.json"):
        try:
            record = read_manifest(manifest).record
        except LowlandError:
            continue
        recorded[record["stage"]] = record["code"]
    return recorded
