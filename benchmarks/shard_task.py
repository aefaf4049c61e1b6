"""The models of the capture benchmark as a task: rows that repeat the case's batch, as many as are asked for."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.models import case, loss
from pipeline.tasks.base import Task


class Repeated(Dataset[tuple[Tensor, Tensor]]):
    """Rows of a batch, again and again."""

    def __init__(self, batch: tuple[Tensor, Tensor], rows: int) -> None:
        self._batch, self._rows = batch, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        place = index % len(self._batch[0])
        return self._batch[0][place], self._batch[1][place]


class Sized(Task):
    """A case of the benchmark with N train rows and one of each other split."""

    def __init__(self, key: str, rows: int) -> None:
        self._key, self._rows, self._batch = key, rows, case(key).batch

    def model(self) -> nn.Module:
        """Random weights."""
        return case(self._key).model

    def train(self, model: nn.Module) -> None:
        """Leave the weights as they are."""

    def train_rows(self) -> Repeated:
        """N of them."""
        return Repeated(self._batch, self._rows)

    def validation_rows(self) -> Repeated:
        """One."""
        return Repeated(self._batch, 1)

    def query_rows(self) -> Repeated:
        """One."""
        return Repeated(self._batch, 1)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy, summed over positions."""
        return loss(model, batch)
