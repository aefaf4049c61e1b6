"""Row sets: batches, digests by row, and errors that name the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from pipeline.errors import DataError
from pipeline.tasks.digest import digest
from pipeline.tasks.rows import RowSet
from tests.tasks.examples import Regression, TinyLanguageModel

TASK = Regression()


class Faulty(Dataset):
    """Row 3 cannot be read, row 5 has another shape, row 6 has no bytes."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        if index == 3:
            raise OSError("disk says no")
        if index == 6:
            return {1, 2}
        return torch.zeros(3 if index == 5 else 2), 1


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


class NoLength(Dataset):
    def __getitem__(self, index: int) -> int:
        return index


def test_batches_hold_the_rows_asked_for_in_order() -> None:
    x = torch.arange(20.0).reshape(10, 2)
    rows = RowSet(TASK, TensorDataset(x, x[:, :1]))
    got = rows.batch([7, 0, 7])
    assert len(rows) == 10 and torch.equal(got[0], x[[7, 0, 7]]) and torch.equal(got[1], x[[7, 0, 7], :1])
    assert torch.equal(rows.batch(torch.tensor([2]))[0], x[2:3]) and torch.equal(rows.batch(range(3))[0], x[:3])


def test_lists_and_dicts_of_rows_work() -> None:
    task = TinyLanguageModel()
    rows = RowSet(task, task.train_rows())
    assert rows.batch([0, 1])["tokens"].shape == (2, 25) and rows.digest(1) == digest(task.train_rows()[1])


def test_digests_do_not_depend_on_the_neighbours() -> None:
    task = TinyLanguageModel()
    whole, part = RowSet(task, task.train_rows()), RowSet(task, task.train_rows()[10:])
    assert [whole.digest(i) for i in range(10, 15)] == [part.digest(i) for i in range(5)]
    assert len({whole.digest(i) for i in range(len(whole))}) == 40


def test_a_row_that_cannot_be_read_is_named() -> None:
    message = r"^expected query row 3, got OSError: disk says no \(test_rows.py, line \d+\) from Faulty\[3\]; mend"
    with pytest.raises(DataError, match=message):
        RowSet(TASK, Faulty(), "query").batch([1, 3])


def test_a_row_that_does_not_collate_is_named() -> None:
    with pytest.raises(
        DataError, match=r"^expected train row 5 to collate into one batch, got RuntimeError: .*give all rows one form"
    ):
        RowSet(TASK, Faulty()).batch([1, 2, 5, 0])
    with pytest.raises(DataError, match=r"expected train row 6 to collate into one batch, got TypeError"):
        RowSet(TASK, Faulty()).batch([6])


def test_a_collate_that_fails_on_many_rows_names_them() -> None:
    class Few(Regression):
        def collate(self, rows: list[Any]) -> Any:
            if len(rows) > 2:
                raise MemoryError
            return rows

    with pytest.raises(
        DataError, match=r"expected train rows \[0, 1, 2\] to collate into one batch, got MemoryError \(test_rows.py"
    ):
        RowSet(Few(), TASK.train_rows()).batch([0, 1, 2])


def test_a_row_without_bytes_is_named() -> None:
    with pytest.raises(DataError, match=r"^train row 6: expected rows of tensors"):
        RowSet(TASK, Faulty()).digest(6)


@pytest.mark.parametrize("index", [-1, 8, 100])
def test_rows_that_are_not_there(index: int) -> None:
    with pytest.raises(DataError, match=rf"^expected train rows 0 to 7, got {index}; ask for one of these$"):
        RowSet(TASK, Faulty()).row(index)


def test_streams_and_datasets_without_length_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^expected train rows by index, got Stream, which gives none; return a map-style dataset"
    ):
        RowSet(TASK, Stream())
    with pytest.raises(DataError, match=r"^expected train rows by index, got generator"):
        RowSet(TASK, (row for row in [1]))
    with pytest.raises(DataError, match=r"^expected train rows by index, got NoneType"):
        RowSet(TASK, None)
    with pytest.raises(
        DataError,
        match=r"^expected a number of train rows, got TypeError: object of type 'NoLength' has no len\(\).*map-style",
    ):
        RowSet(TASK, NoLength())


def test_input_errors_of_the_dataset_pass_unchanged() -> None:
    class Careful(Faulty):
        def __getitem__(self, index: int) -> Any:
            raise DataError(f"picture {index} is damaged")

    with pytest.raises(DataError, match="^picture 2 is damaged$"):
        RowSet(TASK, Careful()).row(2)


def test_the_file_of_a_users_dataset_is_found(tmp_path: Path) -> None:
    from pipeline.tasks.load import load

    (tmp_path / "user.py").write_text(
        "import torch\nfrom tests.tasks.examples import Regression\n\nclass Rows(torch.utils.data.Dataset):\n"
        "    def __len__(self): return 2\n    def __getitem__(self, i):\n        return torch.zeros(2)[5]\n\n"
        "class Mine(Regression):\n    def train_rows(self): return Rows()\n"
    )
    task = load("user.py:Mine", {}, tmp_path)
    with pytest.raises(DataError, match=r"got IndexError: .*\(user.py, line 7\) from Rows\[0\]"):
        RowSet(task, task.train_rows()).row(0)
