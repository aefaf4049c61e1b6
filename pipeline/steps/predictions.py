"""What a classifier says of rows: log probabilities, features, and under which labels its losses are the rows' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.features import logits_and_features
from pipeline.core.rows import losses_of
from pipeline.steps.tasks import model_at
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

BATCH_ROWS = 256
"""Rows of a batch of predictions."""


def predicted(
    task: Task, model: nn.Module, rows: RowSet, positions: Sequence[int], seen: Callable[[int], None] = lambda _: None
) -> tuple[Array, Array | None]:
    """Log probabilities [n, C] and features [n, D], float32, of the rows at `positions`; None without features.

    Args:
        task: a classification.
        model: in eval mode.
        rows: to read from.
        positions: which rows, in order.
        seen: told how many rows are done after each batch.
    """
    logs, features = [], []
    for batch in _batches(rows, positions):
        with torch.no_grad():
            logits, inputs = logits_and_features(task.logits, model, batch)
        logs.append(logits.float().log_softmax(1).cpu().numpy())
        features.append(None if inputs is None else inputs.float().cpu().numpy())
        seen(len(logits))
    known = [part for part in features if part is not None]
    return np.concatenate(logs), np.concatenate(known) if len(known) == len(features) else None


@torch.no_grad()
def said_at(task: Task, layout: Layout, checkpoint: str) -> Array:
    """Log probabilities of all train rows by the model at a checkpoint, [N, C] float32."""
    rows, model = row_set(task, "train"), model_at(task, layout, checkpoint)
    logits = (task.logits(model, batch) for batch in _batches(rows, range(len(rows))))
    return np.concatenate([each.float().log_softmax(1).numpy() for each in logits])


def labels_behind(task: Task, model: nn.Module, rows: RowSet, positions: Sequence[int], classes: int) -> Array:
    """The labels of rows whose task does not list them, [n]: a row's loss is that under its own label."""
    found = []
    for batch in _batches(rows, positions):
        with torch.no_grad():
            own = task.loss(model, batch)
            under = torch.stack([_loss_under(task, model, batch, label, len(own)) for label in range(classes)], 1)
        found.append((under - own[:, None]).abs().argmin(1).cpu().numpy())
    return np.concatenate(found)


def _loss_under(task: Task, model: nn.Module, batch: Batch, label: int, count: int) -> Tensor:
    """The losses of a batch if all its rows had that label, [B]."""
    return losses_of(model, task.loss, task.relabel(batch, torch.full((count,), label)), count, seed=0)


def _batches(rows: RowSet, positions: Sequence[int]) -> Iterator[Batch]:
    return (rows.batch(positions[start : start + BATCH_ROWS]) for start in range(0, len(positions), BATCH_ROWS))
