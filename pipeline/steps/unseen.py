"""A query that the stores do not hold: a row that no set contains, or a part of a row.

The row comes from the task, and its gradient is captured as the stores' rows were.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import config as settings
from pipeline.core.capture.batches import convert
from pipeline.errors import DataError, InputError, LowlandError, TaskError
from pipeline.shards import Plan
from pipeline.steps.capture import Capturer, device_of, set_up_fitted
from pipeline.steps.codes import FINITE
from pipeline.steps.query import precondition
from pipeline.steps.tasks import load_task, use_threads
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Batch, Row, Task, classifies
from pipeline.tasks.blame import blame, file_of
from pipeline.tasks.checks import row_set

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Asked:
    """What is asked about.

    Attributes:
        source: a file that the task reads, or split and position of a row of the run.
        label: of the file, as typed.
        part: of the row, as the task's `focus` takes it; None: all of it.
    """

    source: Path | tuple[str, int]
    label: str | None = None
    part: str | None = None

    def __str__(self) -> str:
        """As a person would name it."""
        name = str(self.source) if isinstance(self.source, Path) else f"{self.source[0]}:{self.source[1]}"
        return name if self.part is None else f"{self.part!r} of {name}"


def unseen_vector(layout: Layout, plan: Plan, text: str, asked: Asked) -> tuple[Array, str]:
    """What a file or a part of a row asks with under a score, [1, K], and a note on the label that was taken.

    Raises:
        DataError: the file is missing or unreadable for the task, there is no such row or no such part of it, or its
            gradient is not finite.
        TaskError: the task reads no files, or knows no parts.
    """
    score, checkpoint = settings.parse_score(text)
    config = settings.validate(settings.read_yaml(layout.config))
    use_threads(config)
    task = load_task(config.task, plan.data)
    capturer, codec, _ = set_up_fitted(task, layout, config, checkpoint)
    try:
        batch, note = _batch(task, plan, capturer, asked)
        captured = capturer.capture(batch, 1)
    except LowlandError:
        raise
    except Exception as error:
        raise DataError(
            f"expected {asked} to be a row as the model takes it, got {blame(error, file_of(task))}; check shape and "
            "dtype of what the task's `read` returns"
        ) from error
    if captured.flags[0] != FINITE:
        raise DataError(
            f"expected a finite loss and gradient of {asked}, got loss {captured.losses[0]}; check its numbers"
        )
    gradient = codec.round_trip(captured.codes).astype(np.float64)
    return (gradient if score == "cosine" else precondition(layout, checkpoint, gradient)), note


def _batch(task: Task, plan: Plan, capturer: Capturer, asked: Asked) -> tuple[Batch, str]:
    """The row as a batch of one; a file without a label gets the model's own prediction."""
    predicted = False
    if isinstance(asked.source, Path):
        if not asked.source.is_file():
            raise DataError(f"expected a file at {asked.source}, got nothing there; check the path")
        predicted = asked.label is None and classifies(task)
        row = _read(task, plan, asked.source, "0" if predicted else asked.label)
    else:
        row = row_set(task, asked.source[0]).row(asked.source[1])
    device = device_of(capturer.model)
    batch = convert(task.collate([_focused(task, row, asked.part)]), lambda tensor: tensor.to(device))
    if not predicted:
        return batch, ""
    with torch.no_grad():
        own = task.logits(capturer.model, batch).argmax(1)
    name = plan.classes[int(own)] if plan.classes else str(int(own))
    return task.relabel(batch, own), f"; no --label given, so the model's own prediction {name!r} is taken"


def _focused(task: Task, row: Row, part: str | None) -> Row:
    if part is None:
        return row
    try:
        return task.focus(row, part)
    except NotImplementedError as error:
        raise TaskError(
            f"expected the task {type(task).__name__} to know parts of a row, got one without that; write focus(self, "
            "row, part), or ask without --on"
        ) from error


def _read(task: Task, plan: Plan, file: Path, label: str | None) -> Any:
    if label is not None and plan.classes and label not in plan.classes and not _is_class(label, plan):
        raise DataError(
            f"expected --label out of {', '.join(plan.classes)}, got {label!r}{settings.nearest(label, plan.classes)}"
        )
    if label in plan.classes:
        label = str(plan.classes.index(label))
    try:
        return task.read(file, label)
    except NotImplementedError as error:
        raise TaskError(
            f"expected the task {type(task).__name__} to read {file.suffix} files, got a task without that; write "
            "read(self, path, label)"
        ) from error
    except InputError:
        raise
    except Exception as error:
        advice = "give --label, if the task needs one" if label is None else "check the file and the label"
        raise DataError(
            f"expected {file} to be a row of the task, got {blame(error, file_of(task))}; {advice}"
        ) from error


def _is_class(label: str, plan: Plan) -> bool:
    return label.isdecimal() and int(label) < len(plan.classes)
