"""What jobs that are still to run will take: time and memory as earlier jobs of the stage took, bytes as they wrote.

Time is a start, the same for all jobs of a stage, and a rate for each row that is captured (or gone over):

    seconds = start + rate * rows

The start is the least that any job of the stage took, if they were of different sizes, else the least of any job. Where
a stage that captures has never run, the operations of a forward pass are counted and taken at a nominal speed
(`pipeline.shards`), and the forecast says so.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np

from pipeline.config import Config
from pipeline.core.codec import Codec
from pipeline.errors import StoreError
from pipeline.resources import code_numbers
from pipeline.shards import NOMINAL_SPEED, OVERHEAD, PASSES, Plan
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest, kept_manifest, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

CAPTURES = ("gradients", "candidates")
ROWS_OF_SPLIT = ("curvature", "vectors")
BESIDE_CODES = 61
"""Bytes of a row of gradients beside its code: norms, error, loss, flag, hashes."""
COPYING = (
    "rows ",
    "contents of its rows",
    "broken off",
    "not made yet",
    "follows from candidates/suspects",
    "other inputs",
)
"""How reasons begin that leave the rows of a former store as they are."""


@dataclass(frozen=True)
class Planned:
    """A job that would run.

    Attributes:
        stage: its name.
        artefact: what it makes, such as gradients/flat/train/00001.
        why: its reasons.
        reserved_mb: memory that its rule reserves.
    """

    stage: str
    artefact: str
    why: tuple[str, ...]
    reserved_mb: int


@dataclass(frozen=True)
class Forecast:
    """What a job takes.

    Attributes:
        rows: that it captures; of stages that capture none, the rows that it goes over, or 0.
        copied: rows that it takes over from the former store.
        seconds: wall time; None where nothing was measured or counted.
        bytes: that it writes; None where no such artefact was ever made.
        memory_mb: its peak.
        basis: measured, counted or none.
    """

    rows: int
    copied: int
    seconds: float | None
    bytes: int | None
    memory_mb: float
    basis: str


@dataclass
class History:
    """What jobs of a stage took: rows, wall seconds, bytes, MB."""

    rows: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    row_bytes: list[float] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)

    def time(self, rows: int, least: float) -> float | None:
        """Seconds of a job over so many rows; `least` is the start where all jobs were of one size."""
        if not self.seconds:
            return None
        start = min(self.seconds) if len(set(self.rows)) > 1 else min(least, min(self.seconds))
        total = sum(self.rows)
        rate = sum(seconds - start for seconds in self.seconds) / total if total else 0.0
        return start + rate * rows if total else median(self.seconds)


def histories(layout: Layout) -> dict[str, History]:
    """By stage, from the manifests and Snakemake's benchmark files."""
    found: dict[str, History] = {}
    for place in sorted(layout.results.rglob("*.json")):
        if any(part.endswith(".zarr") for part in place.parts):
            continue
        try:
            manifest = read_manifest(place)
        except StoreError:
            continue
        history = found.setdefault(manifest.record["stage"], History())
        own, stage = place.relative_to(layout.results).with_suffix(".tsv"), f"{manifest.record['stage']}.tsv"
        measured = [_seconds(layout.run / "benchmarks" / name) for name in (own, stage)]
        _add(history, manifest, next((each for each in measured if each is not None), None))
    return found


def _add(history: History, manifest: Manifest, seconds: float | None) -> None:
    stored, worked = _rows_of(manifest)
    history.bytes.append(manifest.bytes)
    if stored:
        history.row_bytes.append(manifest.bytes / stored)
    history.rows.append(worked)
    history.seconds.append(manifest.record["seconds"] if seconds is None else seconds)
    if "peak_mb" in manifest.record:  # older ones have none
        history.memory_mb.append(manifest.record["peak_mb"])


def _rows_of(manifest: Manifest) -> tuple[int, int]:
    """Rows that an artefact holds, and those that were worked on for it."""
    rows = manifest.record.get("rows", manifest.identity.get("rows", 0))
    rows = rows if isinstance(rows, int) else 0
    return rows, rows - manifest.record.get("copied", 0)


def _seconds(path: Path) -> float | None:
    """Wall time by a benchmark file of Snakemake's, the start of the job included; None where there is none."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return float(next(csv.DictReader(stream, delimiter="\t"), {})["s"])
    except (OSError, ValueError, KeyError):
        return None


def forecast(layout: Layout, plan: Plan, config: Config, jobs: Iterable[Planned], operations: int) -> list[Forecast]:
    """What each job takes.

    Args:
        layout: the places of the run.
        plan: as it would be.
        config: the configuration.
        jobs: to forecast.
        operations: of a forward pass of a row, counted; 0 where rates were measured.
    """
    known = histories(layout)
    least = min((seconds for history in known.values() for seconds in history.seconds), default=0.0)
    return [_one(layout, plan, config, job, known.get(job.stage, History()), least, operations) for job in jobs]


def _one(
    layout: Layout, plan: Plan, config: Config, job: Planned, history: History, least: float, operations: int
) -> Forecast:
    stored, copied = _planned_rows(layout, plan, job)
    rows = stored - copied
    seconds, basis = history.time(rows, least), "measured"
    if seconds is None and job.stage in CAPTURES and operations:
        labels = len(plan.classes) if job.stage == "candidates" else 1
        seconds, basis = rows * labels * (PASSES * operations + OVERHEAD) / NOMINAL_SPEED, "counted"
    row_bytes = median(history.row_bytes) if history.row_bytes else _counted_bytes(plan, config, job)
    size = int(row_bytes * stored) if row_bytes and stored else (max(history.bytes) if history.bytes else None)
    memory = max(history.memory_mb, default=float(job.reserved_mb))
    return Forecast(rows, copied, seconds, size, memory, basis if seconds is not None else "none")


def _planned_rows(layout: Layout, plan: Plan, job: Planned) -> tuple[int, int]:
    """Rows of what a job makes, and how many of them are copied."""
    parts = job.artefact.split("/")
    if job.stage in CAPTURES:
        shard = plan.splits[parts[2]].shard(parts[3])
        path = (layout.gradients if job.stage == "gradients" else layout.candidates)(parts[1], parts[2], parts[3])
        if not all(why.startswith(COPYING) for why in job.why):
            return shard.rows, 0
        return shard.rows, _known(layout, path, job.stage, parts[2], shard.positions)
    if job.stage in ROWS_OF_SPLIT:
        return plan.splits[parts[1].rpartition("-")[2]].rows, 0
    return (plan.splits["train"].rows, 0) if job.stage == "index" else (0, 0)


def _known(layout: Layout, path: Path, kind: str, split: str, positions: Sequence[int]) -> int:
    """How many of these rows the former store at a place has."""
    if kept_manifest(path, kind) is None:
        return 0
    arrays = Arrays(path)
    had = {bytes(row) for row in arrays.read("content")} if "content" in arrays else set()
    _, hashes = open_arrays(layout.hashes, "rows")
    return sum(bytes(row) in had for row in hashes.read(split)[np.asarray(positions, np.int64)])


def _counted_bytes(plan: Plan, config: Config, job: Planned) -> float:
    """Bytes of a row of codes, by the codec; 0 for what holds none."""
    if job.stage not in CAPTURES:
        return 0.0
    code = Codec(config.gradients.codec, np.ones(code_numbers(config, plan), np.float32)).row_bytes
    return code + BESIDE_CODES if job.stage == "gradients" else len(plan.classes) * (code + 16) + 33
