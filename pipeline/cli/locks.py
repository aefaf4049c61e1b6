"""Who works on a run, and when the lock that a killed one has left may go.

Snakemake's lock says that a run is worked on and not by whom, and a process that is killed leaves it behind. So whoever
drives a run writes beside it who it is, in `.snakemake/lowland.json`, and holds a lock of the operating system on that
file, which goes with the process. Snakemake's lock is stale, and is removed with a word, where all of this is known:

* its owner ran on this machine since that was started, and the system's lock is free;
* no process of Snakemake or of a stage has the run as its working directory: these outlive their parent;
* Slurm, if the run submitted to it, has no job of that working directory: jobs go on writing without their submitter.

Anything else is explained in one sentence, and the run is left alone.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import click
import psutil

from pipeline.errors import InputError

LOCAL = "local"
SLURM = "slurm"
WORKER = re.compile(r"--snakefile|snakemake|stage \w+ .*--config|pipeline\.cli\.forks")
"""In the command line of what writes to a run: Snakemake, a stage, or a stage that was forked."""
ANSWER_S = 30
"""Seconds in which Slurm must have answered."""


@dataclass(frozen=True)
class Owner:
    """Who drives a run: a process, where and since when, and what runs its jobs."""

    process: int
    host: str
    place: str
    since: str
    executor: str

    @staticmethod
    def here(executor: str) -> Owner:
        """This process."""
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return Owner(os.getpid(), socket.gethostname(), _place(), since, executor)

    @staticmethod
    def of(directory: Path) -> Owner | None:
        """Whoever last drove a run; None: Snakemake itself, or it is not known."""
        try:
            return Owner(**json.loads(_record(directory).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, started {self.since}"


@contextmanager
def held(directory: Path, executor: str = LOCAL) -> Iterator[None]:
    """Drive a run, alone on it.

    Args:
        directory: the run's.
        executor: what runs its jobs, in Snakemake's words.

    Raises:
        InputError: another process is, or may be, at work on it.
    """
    _record(directory).parent.mkdir(parents=True, exist_ok=True)
    with _record(directory).open("a+", encoding="utf-8") as record:
        if not _taken(record):
            raise InputError(_busy(directory, f"{Owner.of(directory) or 'another process'}, which is at work on it"))
        check_free(directory, alone=True)
        record.truncate(0)
        record.write(json.dumps(asdict(Owner.here(executor))))
        record.flush()
        yield


def check_free(directory: Path, alone: bool = False) -> None:
    """Refuse to touch a run that others work on or may work on, and remove a stale lock.

    Args:
        directory: the run's.
        alone: this process holds the system's lock on the run.

    Raises:
        InputError: it is locked, and the lock is not known to be stale.
    """
    if not any(_locks(directory).glob("*")):
        return
    owner = Owner.of(directory)
    if owner is not None and owner.process == os.getpid():
        owner = None  # the lock came after this process began to drive the run
    _check_quiet(directory, owner, alone)
    if owner is None:
        words = "a lock of which it is not known who holds it; if nobody does"
        raise InputError(_busy(directory, f"{words}, {_unlocking(directory)}"))
    if owner.place != _place() or owner.executor not in (LOCAL, SLURM):
        words = f"the lock of {owner}; whether it or its jobs still work cannot be found out here; if they have ended"
        raise InputError(_busy(directory, f"{words}, {_unlocking(directory)}"))
    _remove(directory)
    click.echo(f"lowland: {owner} is gone, and so are its jobs: its lock was removed", err=True)


def unlock(directory: Path) -> None:
    """Remove Snakemake's lock from a run, which a process that was killed could not do.

    Raises:
        InputError: somebody is at work on the run.
    """
    _check_quiet(directory, Owner.of(directory), alone=False)
    _remove(directory)
    click.echo(f"{directory} is unlocked; run `lowland run` again")


def _check_quiet(directory: Path, owner: Owner | None, alone: bool) -> None:
    """Refuse where something that can be seen from here is at work on a run."""
    if not alone and _is_driven(directory):
        raise InputError(_busy(directory, f"{owner or 'another process'}, which is at work on it"))
    jobs = _jobs(directory, sure=owner is not None) if owner is None or owner.executor == SLURM else []
    if jobs:
        raise InputError(
            f"expected {directory} to be free, got the Slurm jobs {', '.join(jobs)} of an earlier run, which go on "
            f"writing to it; wait for them, or `scancel {' '.join(jobs)}`, then run again"
        )
    processes = _workers(directory)
    if processes:
        words = f"process {', '.join(map(str, processes))} on {socket.gethostname()}, still at work on it"
        raise InputError(_busy(directory, words))


def _busy(directory: Path, by: str) -> str:
    return f"expected {directory} to be free, got {by}" + ("" if "`" in by else "; wait for its end, or end it")


def _unlocking(directory: Path) -> str:
    return f"`lowland run --workdir {directory} --unlock`"


def _locks(directory: Path) -> Path:
    """Where Snakemake keeps its locks; empty while no workflow is at work."""
    return directory / ".snakemake" / "locks"


def _record(directory: Path) -> Path:
    """Where it stands who drives a run."""
    return directory / ".snakemake" / "lowland.json"


def _remove(directory: Path) -> None:
    shutil.rmtree(_locks(directory), ignore_errors=True)


def _place() -> str:
    """Where processes see one another; it differs where they do not: user, machine since its start, container."""
    parts = [getpass.getuser(), socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _taken(record: IO[str]) -> bool:
    """Take the system's lock on an open file; it goes when the file is closed, whatever ends the process."""
    try:
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without such locks: Snakemake's own remain
    return True


def _is_driven(directory: Path) -> bool:
    """Whether a process holds the system's lock on a run."""
    try:
        with _record(directory).open("r+", encoding="utf-8") as record:
            return not _taken(record)
    except OSError:
        return False


def _workers(directory: Path) -> list[int]:
    """Processes of this machine that work on a run, but for this one and those that started it."""
    place = directory.resolve()
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter(["pid", "cwd", "cmdline", "status"]):
        facts = process.info
        at_work = facts["cwd"] and Path(facts["cwd"]) == place and WORKER.search(" ".join(facts["cmdline"] or ()))
        if at_work and facts["pid"] not in own and facts["status"] != psutil.STATUS_ZOMBIE:
            found.append(facts["pid"])
    return found


def _jobs(directory: Path, sure: bool) -> list[str]:
    """Slurm's jobs of a run that wait or run.

    Raises:
        InputError: Slurm does not answer, though it is sure that the run submitted to it.
    """
    command = ["squeue", "--me", "--noheader", "--format", "%A %Z"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S)
        trouble = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if trouble:
        if not sure:
            return []
        raise InputError(
            f"expected squeue to say whether jobs of an earlier run still write to {directory}, got: "
            f"{trouble.splitlines()[-1]}; run again when Slurm answers"
        )
    place = directory.resolve()
    lines = (line.split(maxsplit=1) for line in done.stdout.splitlines())
    return [job for job, where in lines if Path(where).resolve() == place]
