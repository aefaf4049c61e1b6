"""A query that no set contains: its row is read by the task, its gradient captured as the stores' rows were."""

from __future__ import annotations

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
from pipeline.tasks.base import Batch, Task, classifies
from pipeline.tasks.blame import blame, file_of

Array = np.ndarray[Any, Any]


def unseen_vector(layout: Layout, plan: Plan, text: str, file: Path, label: str | None) -> tuple[Array, str]:
    """What a file asks with under a score, [1, K], and a note on the label that was taken.

    Raises:
        DataError: the file is missing, unreadable for the task, or its gradient is not finite.
    """
    score, checkpoint = settings.parse_score(text)
    config = settings.validate(settings.read_yaml(layout.config))
    use_threads(config)
    task = load_task(config.task, plan.data)
    capturer, codec, _ = set_up_fitted(task, layout, config, checkpoint)
    try:
        batch, note = _batch(task, plan, capturer, file, label)
        captured = capturer.capture(batch, 1)
    except LowlandError:
        raise
    except Exception as error:
        raise DataError(
            f"expected {file} to be a row as the model takes it, got {blame(error, file_of(task))}; check shape and "
            "dtype of what the task's `read` returns"
        ) from error
    if captured.flags[0] != FINITE:
        raise DataError(
            f"expected a finite loss and gradient of {file}, got loss {captured.losses[0]}; check its numbers"
        )
    gradient = codec.round_trip(captured.codes).astype(np.float64)
    return (gradient if score == "cosine" else precondition(layout, checkpoint, gradient)), note


def _batch(task: Task, plan: Plan, capturer: Capturer, file: Path, label: str | None) -> tuple[Batch, str]:
    """The file as a batch of one, with the given label, or the model's own prediction where there is none."""
    if not file.is_file():
        raise DataError(f"expected a file at {file}, got nothing there; check the path")
    predicted = label is None and classifies(task)
    device = device_of(capturer.model)
    row = task.collate([_read(task, plan, file, "0" if predicted else label)])
    batch = convert(row, lambda tensor: tensor.to(device))
    if not predicted:
        return batch, ""
    with torch.no_grad():
        own = task.logits(capturer.model, batch).argmax(1)
    name = plan.classes[int(own)] if plan.classes else str(int(own))
    return task.relabel(batch, own), f"; no --label given, so the model's own prediction {name!r} is taken"


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
