"""What every stage has: where the run is, the sections of its configuration, progress, and a record of how it went."""

from __future__ import annotations

import logging
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.config import Config
from pipeline.shards import Plan
from pipeline.steps.code import digest_of
from pipeline.storage.artefact import create
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import MB, Workers

Say = Callable[[str], None]

QUIET_S = 2.0
"""Progress is said when so many seconds have passed since it was last said."""


@dataclass(frozen=True)
class Job:
    """One call of a stage.

    Attributes:
        stage: its name, as on the command line.
        layout: the places of the run.
        config: the sections that the stage declares in `pipeline.config.STAGES`; any other raises.
        say: takes a line for people.
    """

    stage: str
    layout: Layout
    config: Config
    say: Say
    started: float = field(default_factory=time.monotonic)

    def plan(self) -> Plan:
        """The run's rows and shards."""
        return Plan.load(self.layout.plan)

    def workers(self) -> Workers:
        """Where reductions and scans of the stores are computed."""
        return workers_of(self.config)

    @contextmanager
    def writing(self, path: Path, kind: str, identity: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Write the artefact at `path`: yields a temporary path and a record that may be added to."""
        record: dict[str, Any] = {}
        with create(path, kind, identity, record) as temporary:
            yield temporary, record
            record.update(self.record())
        self.say(f"{path.relative_to(self.layout.results)} written after {time.monotonic() - self.started:.1f} s")

    def record(self) -> dict[str, Any]:
        """How an artefact came about."""
        return {
            "stage": self.stage,
            "code": digest_of(self.stage, self.config),
            "lowland": __version__,
            "python": platform.python_version(),
            "libraries": {name: version(name) for name in ("numpy", "torch", "zarr", "faiss-cpu") if _loaded(name)},
            "machine": f"{platform.machine()} {platform.system()}, {os.cpu_count()} cores",
            "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(time.monotonic() - self.started, 3),
            "peak_mb": round(peak_bytes() / MB),
        }

    def progress(self, what: str, total: int, unit: str = "rows") -> Progress:
        """A counter that says how far a loop is, every two seconds."""
        return Progress(what, total, unit, self.say)


def peak_bytes() -> int:
    """The most memory that this process has held, shared libraries included, and the largest that it started."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def workers_of(config: Config) -> Workers:
    """The workers that a configuration asks for."""
    return Workers(config.compute.threads, config.compute.memory_mb * MB, config.compute.dask)


@contextmanager
def hearing(job: Job) -> Iterator[None]:
    """Within the context, what a task tells the `pipeline` logger is said, at most once in two seconds."""
    heard = _Heard(job.say)
    logger = logging.getLogger("pipeline")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(heard)
    try:
        yield
    finally:
        logger.removeHandler(heard)
        logger.setLevel(level)


class _Heard(logging.Handler):
    def __init__(self, say: Say) -> None:
        super().__init__(logging.INFO)
        self._say, self._last = say, time.monotonic()

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        if now - self._last >= QUIET_S or record.levelno > logging.INFO:
            self._last = now
            self._say(record.getMessage())


class Progress:
    """Says how much of a loop is done, at which rate, and when it will end; nothing in the first two seconds."""

    def __init__(self, what: str, total: int, unit: str, say: Say) -> None:
        self._what, self._total, self._unit, self._say = what, total, unit, say
        self._started = self._last = time.monotonic()
        self._done = 0

    def add(self, count: int = 1) -> None:
        """`count` more are done."""
        self._done += count
        now = time.monotonic()
        if now - self._last >= QUIET_S:
            self._last = now
            rate = self._done / (now - self._started)
            left = (self._total - self._done) / rate if rate else float("inf")
            self._say(f"{self._what}: {self._done} of {self._total} {self._unit}, {rate:.3g}/s, {left:.0f} s left")


def _loaded(distribution: str) -> bool:
    return {"faiss-cpu": "faiss"}.get(distribution, distribution) in sys.modules
