"""Rows of a dataset as batches, and the errors of the user's dataset in terms of rows.

A dataset is map-style: `len(dataset)` rows, `dataset[i]` for 0 <= i < len. Nothing here knows what a row is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import IterableDataset

from pipeline.core.capture.batches import convert
from pipeline.errors import DataError, InputError
from pipeline.tasks.base import Batch, Row, Task, input_of
from pipeline.tasks.blame import blame, file_of
from pipeline.tasks.digest import digest

__all__ = ["RowSet", "digest"]

CPU = torch.device("cpu")


class RowSet:
    """The rows of one dataset of a task.

    Attributes:
        task: whose `collate` makes the batches.
        dataset: map-style.
        split: what errors call the rows: "train", "validation" or "query".
        device: where batches go; rows are where the dataset has them.
    """

    def __init__(self, task: Task, dataset: Any, split: str = "train", device: torch.device = CPU) -> None:
        """Raises DataError for a dataset that has no length or no rows by index."""
        self.task, self.dataset, self.split, self.device = task, dataset, split, device
        self._length = _length(dataset, split)
        self._files = (file_of(dataset), file_of(task))

    def __len__(self) -> int:
        """How many rows there are."""
        return self._length

    def row(self, index: int) -> Row:
        """Row `index`, 0 to len - 1.

        Raises:
            DataError: no such row, or the dataset failed on it.
        """
        index = int(index)
        if not 0 <= index < self._length:
            raise DataError(f"expected {self.split} rows 0 to {self._length - 1}, got {index}; ask for one of these")
        try:
            return self.dataset[index]
        except InputError:
            raise
        except Exception as error:
            where = f"{type(self.dataset).__name__}[{index}]"
            raise DataError(
                f"expected {self.split} row {index}, got {blame(error, *self._files)} from {where}; mend the dataset"
            ) from error

    def batch(self, indices: Sequence[int]) -> Batch:
        """The rows `indices` [B], in that order, collated.

        Raises:
            DataError: a row cannot be read, or rows cannot be put into one batch.
        """
        return self.collate([self.row(index) for index in indices], indices)

    def collate(self, rows: list[Row], indices: Sequence[int]) -> Batch:
        """`rows` [B], already read, to one batch; `indices` [B] are for the errors.

        Raises:
            DataError: rows cannot be put into one batch; a row that fails alone is named.
        """
        try:
            batch = self.task.collate(rows)
        except InputError:
            raise
        except Exception as error:
            which = self._failing(rows, indices)
            raise DataError(
                f"expected {which} to collate into one batch, got {blame(error, file_of(self.task))}; "
                "give all rows one form and shape, or write Task.collate"
            ) from error
        return batch if self.device == CPU else convert(batch, lambda tensor: tensor.to(self.device))

    def digest(self, index: int) -> bytes:
        """The 16 bytes that name the content of row `index`.

        Raises:
            DataError: the row cannot be read or holds something without canonical bytes.
        """
        return self._digest(self.row(index), index)

    def digests(self, index: int) -> tuple[bytes, bytes]:
        """The same, and 16 bytes that name its input, for tasks with labels; where that has no bytes, the row's again.

        Raises:
            DataError: as above, or the row cannot be given another label.
        """
        row = self.row(index)
        whole = self._digest(row, index)
        try:
            return whole, digest(input_of(self.task, row))
        except DataError:
            return whole, whole
        except Exception as error:
            raise DataError(
                f"expected {self.split} row {index} to be collated and relabelled, got {blame(error, *self._files)}; "
                "give all rows one form, or write Task.relabel"
            ) from error

    def _digest(self, row: Row, index: int) -> bytes:
        try:
            return digest(row)
        except DataError as error:
            raise DataError(f"{self.split} row {index}: {error}") from error

    def _failing(self, rows: list[Row], indices: Sequence[int]) -> str:
        """The first row that does not collate alone or with the first row, else the range."""
        for row, index in zip(rows, indices, strict=True):
            try:
                self.task.collate([row])
                self.task.collate([rows[0], row])
            except Exception:
                return f"{self.split} row {int(index)}"
        return f"{self.split} rows {[int(index) for index in indices[:8]]}"


def _length(dataset: Any, split: str) -> int:
    kind = type(dataset).__name__
    advice = "return a map-style dataset with __len__ and __getitem__, or a list of rows"
    if isinstance(dataset, IterableDataset) or not callable(getattr(type(dataset), "__getitem__", None)):
        raise DataError(f"expected {split} rows by index, got {kind}, which gives none; {advice}")
    try:
        return len(dataset)
    except InputError:
        raise
    except Exception as error:
        raise DataError(
            f"expected a number of {split} rows, got {blame(error, file_of(dataset))} from {kind}; {advice}"
        ) from error
