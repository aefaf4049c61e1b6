"""Batches of any nesting are cut into rows."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.capture import batches
from pipeline.errors import TaskError

Pair = namedtuple("Pair", "x y")


@dataclass(frozen=True)
class Record:
    x: Tensor
    note: str


@pytest.mark.parametrize(
    "wrap",
    [lambda t: Pair(t, 1), lambda t: Record(t, "n"), lambda t: MappingProxyType({"x": t}), lambda t: [(t,), None]],
)
def test_containers_are_kept(wrap: object) -> None:
    tensor = torch.arange(6).reshape(3, 2)
    batch = wrap(tensor)  # type: ignore[operator]
    row = batches.rows(batch, 2, 3, 3)
    assert isinstance(row, dict if isinstance(batch, MappingProxyType) else type(batch))
    assert [t.tolist() for t in batches.row_tensors(row, 1)] == [[[4, 5]]]
    again = batches.with_tensors(row, 1, [torch.tensor([[7, 8]])])
    assert [t.tolist() for t in batches.row_tensors(again, 1)] == [[[7, 8]]]
    converted = batches.convert(batch, lambda t: t.double())
    assert [t.dtype for t in batches.row_tensors(converted, 3)] == [torch.float64]


def test_rows_of_nested_batches() -> None:
    batch = {
        "x": torch.arange(6).reshape(3, 2),
        "more": (torch.tensor(5.0), [torch.arange(3), torch.arange(4)], ["a", "b", "c"], ("d", "e")),
        "array": np.arange(3),
        "note": "abc",
        "none": None,
    }
    assert batches.batch_size(batch) == 3
    row = batches.rows(batch, 1, 2, 3)
    assert row["x"].tolist() == [[2, 3]] and row["array"].tolist() == [1]
    assert row["more"][0] == 5 and row["more"][1][0].tolist() == [1] and row["more"][1][1].tolist() == [0, 1, 2, 3]
    assert row["more"][2:] == (["b"], ("d", "e")) and row["note"] == "abc" and row["none"] is None
    chosen = batches.select(batch, [2, 0], 3)
    assert chosen["x"].tolist() == [[4, 5], [0, 1]] and chosen["more"][2] == ["c", "a"]
    assert [tuple(t.shape) for t in batches.row_tensors(batch, 3)] == [(3, 2), (3,)]
    assert batch["x"].shape == (3, 2)


def test_batches_without_rows_are_told() -> None:
    assert batches.batch_size(["a", "b"]) == 2
    with pytest.raises(TaskError, match="expected a batch with tensors in tuples, lists or dicts, got object"):
        batches.batch_size(object())
