"""The memory plan of a checkpoint's captures: measured when the projection is fitted, followed by all that captures.

The plan stands in the record of the projection's manifest. How many rows a batch has follows from it, the budget and
the config alone, so that all shards have batches of one size; another budget changes no result.

Rows may differ in size: batches are measured with the largest of all rows that fit projection and codec, of train and
validation. Rows that are larger than all of these, as may come where few are long, take more than planned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from heapq import nlargest
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.core.codec import Codec
from pipeline.core.memory import HEAP, MOST_ROWS, SLACK, Plan, Watch, measure
from pipeline.core.memory import together as plans_together
from pipeline.errors import CapacityError, StoreError
from pipeline.steps.capture import Capturer, stored_columns
from pipeline.steps.job import Job
from pipeline.storage.artefact import Manifest
from pipeline.tasks.base import Row
from pipeline.tasks.rows import RowSet

Sample = tuple[RowSet, list[int]]
"""Positions of some rows of a split."""

MB = 10**6
LARGEST_ROWS = 8
"""How many of the rows that are looked at, the largest, make the batches that are measured."""
LABEL_COPIES = 4  # of a row's codes under all labels: as a list, stacked, and twice in the store's writer
NUMBER_BYTES = 25  # of a captured row beside its code: squared norm, its error, loss, flag
LABEL_BYTES = 24  # of a label beside its code: scale, loss, class, weight


def budget_bytes(job: Job) -> int:
    """What a capture job may take."""
    return job.config.compute.memory_mb * MB


def most_rows(job: Job) -> int:
    """B of the largest batch that comes into question."""
    asked = job.config.gradients.batch_rows
    return MOST_ROWS if asked == "auto" else asked


def measured(job: Job, capturer: Capturer, watch: Watch, setup_bytes: int, samples: Sequence[Sample]) -> Plan:
    """The plan, from batches of the largest rows of samples of splits, captured and encoded as for a store."""
    rows, largest = largest_rows(job, samples)
    codec = Codec(job.config.gradients.codec, np.ones(capturer.dimension, np.float32))

    def capture(count: int) -> None:
        chosen = [largest[i % len(largest)] for i in range(count)]
        stored_columns(codec, capturer.capture(rows.batch(chosen), count))

    return measure(watch, capture, setup_bytes, budget_bytes(job), most_rows(job))


def largest_rows(job: Job, samples: Sequence[Sample]) -> Sample:
    """The largest rows of the split that has the very largest, that one first; they are read one at a time.

    Of one split, as rows of two need not go into one batch.
    """
    progress = job.progress("looking for the largest rows", sum(len(positions) for _, positions in samples))

    def sized(rows: RowSet, positions: list[int]) -> Iterator[tuple[int, int]]:
        for position in positions:
            yield row_bytes(rows.row(position)), -position  # of equal ones the first
            progress.add()

    found = [(nlargest(LARGEST_ROWS, sized(*each)), each[0]) for each in samples]
    largest, rows = max(found, key=lambda each: each[0][:1])
    return rows, [-position for _, position in largest]


EXCLUDE = "leave parameters out by gradients.exclude"
SMALLER = "take a smaller model or, by gradients.exclude, fewer of its parameters"


def check(job: Job, what: str, planned_bytes: int, otherwise: str = EXCLUDE) -> None:
    """Refuse what is planned to take more than the budget.

    Raises:
        CapacityError: it is.
    """
    if planned_bytes + SLACK > budget_bytes(job):
        raise _refusal(job, what, planned_bytes + SLACK, otherwise)


class SetUp:
    """The memory of a model that is set up: refused as soon as it is certain that it does not fit.

    Attributes:
        peak: most bytes so far.
    """

    def __init__(self, job: Job, watch: Watch) -> None:
        """Of a job, by a watch that was entered before the model was made."""
        self._job, self._watch = job, watch
        self.peak = 0

    def afford(self, coming_bytes: int) -> None:
        """Refuse what takes so much beside what is held now, if that is more than the budget: as `cover` asks.

        What is held now stays, so what is refused here would have been refused by its peak, too.

        Raises:
            CapacityError: it is more.
        """
        self.peak = max(self.peak, self._watch.mapped_peak)
        self._watch.restart()
        least = max(self.peak, self._watch.mapped_peak + coming_bytes)
        check(self._job, "a model that is set up", least, SMALLER)


def together(plans: Sequence[Plan], codecs: Sequence[Codec]) -> Plan:
    """The plan of captures at several checkpoints in one pass, each with the codec of its codes."""
    return plans_together(plans, [4 * len(codec.column_scale) + NUMBER_BYTES for codec in codecs])


def batch_rows(job: Job, plan: Plan, otherwise: str = EXCLUDE) -> int:
    """B for a checkpoint's captures; the plan is said.

    Raises:
        CapacityError: what the config asks for, or one row, does not fit.
    """
    asked, budget = job.config.gradients.batch_rows, budget_bytes(job)
    rows = plan.rows(budget) if asked == "auto" else asked
    if rows is None:
        raise _refusal(job, "batches of one row", plan.held(1), otherwise)
    if plan.held(rows) > budget:
        raise _refusal(job, f"batches of {rows} rows", plan.held(rows), "lower gradients.batch_rows")
    job.say(f"batches of {rows} rows: {_mb(plan.held(rows))} MB planned of {job.config.compute.memory_mb}")
    return rows


def candidate_rows(job: Job, plan: Plan, labels: int, codec: Codec) -> int:
    """B where every row is captured under many labels, whose codes are held together: no more than for gradients.

    Raises:
        CapacityError: one row does not fit.
    """
    row = int(HEAP * LABEL_COPIES * labels * (codec.row_bytes + LABEL_BYTES))
    rows = plan.rows(budget_bytes(job), row)
    if rows is None:
        what = f"batches of one row under {labels} labels"
        raise _refusal(job, what, plan.held(1) + row, "lower projection.dimension")
    rows = min(rows, most_rows(job))
    planned = _mb(plan.held(rows) + rows * row)
    job.say(f"batches of {rows} rows, {labels} labels: {planned} MB planned of {job.config.compute.memory_mb}")
    return rows


def record_of(plan: Plan) -> dict[str, Any]:
    """The plan as a manifest's record holds it."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(plan).items()}


def plan_of(projection: Manifest) -> Plan:
    """The plan that was made with a projection.

    Raises:
        StoreError: there is none, for a version of Lowland made it that had no plans.
    """
    found = projection.record.get("memory", {})
    if not found.keys() >= {field.name for field in fields(Plan)}:
        raise StoreError(
            f"expected a memory plan with the projection {projection.name}, got an older one without: run "
            "`lowland run --force projection`"
        )
    return Plan(found["setup_bytes"], found["between_bytes"], tuple(found["sizes"]), tuple(found["bytes"]))


def row_bytes(row: Row) -> int:
    """Bytes of the tensors, arrays and texts of a row, however they are nested."""
    if isinstance(row, Tensor | np.ndarray):
        return int(row.nbytes)
    if isinstance(row, str | bytes):
        return len(row)
    if isinstance(row, Mapping):
        return sum(map(row_bytes, row.values()))
    return sum(map(row_bytes, row)) if isinstance(row, tuple | list) else 8


def _refusal(job: Job, what: str, planned_bytes: int, otherwise: str) -> CapacityError:
    return CapacityError(
        f"expected {what} within compute.memory_mb = {job.config.compute.memory_mb}, got a plan of "
        f"{_mb(planned_bytes)} MB: raise compute.memory_mb, or {otherwise}"
    )


def _mb(size: int) -> int:
    """Bytes in MB, rounded up."""
    return -(-size // MB)
