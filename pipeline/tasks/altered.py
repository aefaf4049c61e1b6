"""A task whose train rows are some of another's, under other labels: what retraining needs.

Everything else is the task's own: its model, its loss, its `train`, which must take its rows from `train_rows()`.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.errors import TaskError
from pipeline.tasks.base import Row, Task, label_key

Positions = np.ndarray[Any, Any]


class AlteredRows(Dataset[Row]):
    """Some rows of a dataset, in their order, with the labels of some of them replaced.

    Attributes:
        rows: the whole.
        kept: positions of the rows that stay, [n].
        labels: position in the whole to its new label.
        asked: how many rows were read.
    """

    def __init__(self, rows: Any, kept: Positions, labels: dict[int, int]) -> None:
        """See the class."""
        self.rows, self.kept, self.labels, self.asked = rows, kept, labels, 0

    def __len__(self) -> int:
        """How many rows stay."""
        return len(self.kept)

    def __getitem__(self, index: int) -> Row:
        """The row at `index` of those that stay."""
        if not -len(self.kept) <= index < len(self.kept):
            raise IndexError(index)
        self.asked += 1
        position = int(self.kept[index])
        row = self.rows[position]
        return relabelled(row, self.labels[position]) if position in self.labels else row


def relabelled(row: Row, label: int) -> Row:
    """A row (inputs..., label), or a dict with "labels" or "label", with another label of the same type.

    Raises:
        TaskError: a row of another form.
    """
    if isinstance(row, dict):
        key = label_key(row)
        if key is not None:
            return {**row, key: _as(row[key], label)}
    elif isinstance(row, (tuple, list)) and len(row) > 1:
        return (*row[:-1], _as(row[-1], label))
    raise TaskError(
        f"expected train rows (inputs..., label) or dicts with 'label' to retrain under other labels, got "
        f"{type(row).__name__}; return such rows"
    )


def _as(old: Any, label: int) -> Any:
    """`label` in the type of the one that it replaces."""
    return torch.full_like(old, label) if isinstance(old, torch.Tensor) else type(old)(label)


def altered(task: Task, kept: Positions, labels: dict[int, int]) -> tuple[Task, AlteredRows]:
    """`task` on the rows `kept` [n] of its train rows, some under new labels, and these rows.

    The object is a copy of the task with `train_rows` and `labels` of a subclass; the task itself is not touched.
    """
    rows = AlteredRows(task.train_rows(), kept, labels)
    given = task.labels
    own = None if given is None else [labels.get(int(i), int(given[int(i)])) for i in kept]
    members = {"train_rows": lambda self: rows, "labels": property(lambda self: own)}
    changed = copy.copy(task)
    changed.__class__ = type(type(task).__name__, (type(task),), members)
    return changed, rows


def check_asked(task: Task, rows: AlteredRows) -> None:
    """Refuse a training that did not read the rows that it was given: it would have trained on all of them.

    Raises:
        TaskError: no row was read.
    """
    if rows.asked == 0 and len(rows):
        raise TaskError(
            f"expected {type(task).__name__}.train to take its rows from self.train_rows(), got a training that read "
            "none of them, so that no subset can be retrained; use self.train_rows() in `train`"
        )


def labels_of(batch: Any) -> torch.Tensor | None:
    """The labels of a batch (inputs..., labels) or of a dict with "labels" or "label", [B]; None without."""
    last: Any = None
    if isinstance(batch, dict):
        last = batch.get("labels", batch.get("label"))
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        last = batch[-1]
    whole = isinstance(last, torch.Tensor) and last.dim() == 1 and not last.is_floating_point()
    return last if whole else None
