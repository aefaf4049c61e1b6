"""The Task contract: what is attributed. It is the only part of Lowland that knows what a sample is.

A task is one class in one file. Six methods are required; the rest is optional and switches features on.
Classification, regression, language models and diffusion differ in `loss` alone.

Letters: N training rows, M validation rows, Q queries, B rows of a batch, C classes.

A loss may be a sum over *parts*, the same number for all rows: the timesteps of a diffusion model. `loss_part` then
narrows a batch to one of them, so that their gradients can be kept apart (`gradients.parts: separate`).

Example:
    A linear regression, whole; `lowland run` needs nothing more than this and `task: {class: file.py:Line}`.

    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> class Line(Task):
    ...     def model(self):
    ...         return torch.nn.Linear(2, 1)
    ...     def rows(self, first, last):
    ...         x = torch.arange(2.0 * first, 2.0 * last).reshape(-1, 2)
    ...         return TensorDataset(x, x.sum(1, keepdim=True))
    ...     def train_rows(self):
    ...         return self.rows(0, 8)
    ...     def validation_rows(self):
    ...         return self.rows(8, 12)
    ...     def query_rows(self):
    ...         return self.rows(12, 14)
    ...     def loss(self, model, batch):
    ...         x, y = batch
    ...         return (model(x) - y).square().sum(1)
    >>> task = Line()
    >>> batch = task.collate([task.train_rows()[0], task.train_rows()[1]])
    >>> tuple(task.loss(task.model(), batch).shape)
    (2,)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

Batch = Any  # whatever `collate` returns: a tensor, or tuples, lists and dicts of tensors with B rows each
Row = Any  # whatever a dataset returns for one index


@dataclass(frozen=True)
class Shown:
    """A row as people see it: any of an image, a text and a table.

    Attributes:
        image: [H, W] grey or [H, W, 3] colour, uint8.
        text: plain text; it is escaped wherever it is printed into HTML.
        table: name and value of a few columns.
    """

    image: Any = None
    text: str | None = None
    table: dict[str, Any] | None = None


class Task(ABC):
    """A model, its data and its loss."""

    # -- required ----------------------------------------------------------------------------------

    @abstractmethod
    def model(self) -> nn.Module:
        """A new model; its weights are replaced by a checkpoint or by `train`."""

    @abstractmethod
    def train_rows(self) -> Dataset[Row]:
        """The N rows that the model was trained on, as they were given to it: the rows that are judged."""

    @abstractmethod
    def validation_rows(self) -> Dataset[Row]:
        """M clean rows that the model was not trained on."""

    @abstractmethod
    def query_rows(self) -> Dataset[Row]:
        """Q rows whose predictions are to be explained; disjoint from the validation rows."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The loss of each row, [B], in nats; never a mean over the batch, and no row may look at another."""

    # -- optional ----------------------------------------------------------------------------------

    def train(self, model: nn.Module) -> None:
        """Train `model` in place on `train_rows`; not needed where the config names a checkpoint.

        The global generators of torch, numpy and random are seeded before the call.
        """
        raise NotImplementedError  # replaced by a user who wants training; `trains` tells

    def epoch_ended(self, model: nn.Module, learning_rate: float) -> None:  # noqa: B027
        """To be called by `train` after each epoch: TracIn keeps weights there; a run that wants none does nothing."""

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Class scores before the softmax, [B, C]; makes the task a classification."""
        raise NotImplementedError  # `classifies` tells

    @property
    def labels(self) -> Sequence[int] | None:
        """The given label of each training row, [N], 0 to C - 1; needed for relabelling."""
        return None

    @property
    def true_labels(self) -> Sequence[int] | None:
        """The true label of each training row, [N], where known: for evaluation only, no estimator sees it."""
        return None

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the C classes; without it they are called by number."""
        return None

    def groups(self, split: str) -> Sequence[str] | None:
        """The group of each row of a split (its author, style, class), where known: for evaluation only.

        Retrieval is judged by it: rows of a query's own group should come first.
        """
        return None

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """What the model makes of each row, [B, D], before its last layer: a control that retrieval must beat."""
        raise NotImplementedError  # optional

    def metric(self, model: nn.Module, split: str) -> float:
        """A figure of merit of the model on the rows of a split, larger is better, that no mean of losses tells.

        Retrained models are judged by it where the task is no classification.
        """
        raise NotImplementedError  # optional; `has_metric` tells

    loss_parts: int = 1
    """How many parts the loss of a row is the sum of."""

    def loss_part(self, batch: Batch, index: int) -> Batch:
        """`batch` with the loss of part `index` alone, 0 to `loss_parts` - 1; the parts' losses sum to `loss`."""
        raise NotImplementedError  # needed where `loss_parts` is more than 1

    def focus(self, row: Row, part: str) -> Row:
        """The same row with a loss that looks only at `part` of it, as typed: words of a text, a region of an image."""
        raise NotImplementedError  # optional; for `lowland query --on`

    def relabel(self, batch: Batch, labels: Tensor) -> Batch:
        """`batch` with `labels` [B] in place of its own.

        Serves rows of the form (inputs..., label) and dicts with a key "label" or "labels"; others override it.
        """
        if isinstance(batch, dict):
            key = label_key(batch)
            if key is not None:
                return {**batch, key: labels.to(batch[key].dtype)}
        elif isinstance(batch, (tuple, list)) and isinstance(batch[-1], Tensor):
            return (*batch[:-1], labels.to(batch[-1].dtype))
        raise NotImplementedError("expected rows (inputs..., label) or a dict with 'label', or a task with `relabel`")

    def sources(self) -> Sequence[str | Path] | str | None:
        """Files that hold the data, or a text that changes whenever the data does; None: always look at the rows."""
        return None

    def show(self, row: Row) -> Shown:
        """How people see a row."""
        return show_by_shape(row)

    def read(self, path: Path, label: str | None) -> Row:
        """A row from a file that no dataset holds, for `lowland query --input`.

        Args:
            path: .npy or .json with the input's numbers, .png or .jpg, or .txt.
            label: as typed, or None where the user gave none; None within the row then asks for the model's own
                prediction.
        """
        raise NotImplementedError

    def collate(self, rows: list[Row]) -> Batch:
        """Rows to one batch."""
        return default_collate(rows)


def trains(task: Task) -> bool:
    """Whether the task brings its own training."""
    return type(task).train is not Task.train


def classifies(task: Task) -> bool:
    """Whether the task is a classification."""
    return type(task).logits is not Task.logits


def input_of(task: Task, row: Row) -> Any:
    """A row of a task with labels, without its label: two rows with one input give the same, whatever their labels.

    As `relabel` tells where the label is: by the form of the row, or as a batch of the task's own under label 0.
    """
    if type(task).collate is Task.collate and type(task).relabel is Task.relabel:
        return {**row, label_key(row): None} if isinstance(row, dict) else row[:-1]
    return task.relabel(task.collate([row]), torch.zeros(1, dtype=torch.int64))


def label_key(row: dict[Any, Any]) -> str | None:
    """The key of the label in a row or batch that is a dict."""
    return next((name for name in ("labels", "label") if name in row), None)


def has_features(task: Task) -> bool:
    """Whether the task tells what its model makes of rows."""
    return type(task).features is not Task.features


def has_metric(task: Task) -> bool:
    """Whether the task has a figure of merit of its own."""
    return type(task).metric is not Task.metric


def show_by_shape(row: Row) -> Shown:
    """The input of a row as an image when it has the shape of one, else as text or a table."""
    value = row[0] if isinstance(row, (tuple, list)) and row else row
    if isinstance(value, str):
        return Shown(text=value)
    if isinstance(value, Tensor) and value.dim() in (2, 3):
        image = value.detach().float()
        if image.dim() == 3 and image.shape[0] in (1, 3):
            image = image.permute(1, 2, 0)
        if image.dim() == 2 or image.shape[-1] in (1, 3):
            low, high = image.min(), image.max()
            grey = (255 * (image - low) / (high - low).clamp(min=1e-12)).to(torch.uint8)
            return Shown(image=grey.squeeze(-1).numpy() if grey.dim() == 3 else grey.numpy())
    if isinstance(value, Tensor) and value.dim() == 1:
        return Shown(table={str(i): round(float(x), 4) for i, x in enumerate(value[:12])})
    return Shown(text=str(value)[:500])
