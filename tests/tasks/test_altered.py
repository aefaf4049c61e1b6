"""Tasks on some of their train rows and under other labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from pipeline.errors import TaskError
from pipeline.tasks.altered import altered, check_asked, labels_of, relabelled
from pipeline.tasks.digits import Digits
from pipeline.tasks.rows import RowSet


@pytest.fixture
def digits() -> Digits:
    return Digits(train_size=40, validation_size=10, query_size=10, epochs=2, hidden=[8])


def test_only_the_rows_that_stay_are_there_and_some_under_new_labels(digits):
    changed, rows = altered(digits, np.array([3, 5, 30]), {5: 9})
    assert len(rows) == 3 and changed.train_rows() is rows
    for place, position in enumerate((3, 5, 30)):
        assert torch.equal(rows[place][0], digits.train_rows()[position][0])
    assert [rows[i][1] for i in range(3)] == changed.labels == [digits.labels[3], 9, digits.labels[30]]
    assert len(digits.train_rows()) == 40 and type(digits) is Digits


def test_training_on_all_rows_is_the_tasks_own_training_bit_for_bit(digits):
    states = []
    for task in (digits, altered(digits, np.arange(40), {})[0]):
        torch.manual_seed(7)
        model = task.model()
        task.train(model)
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*states)


def test_a_training_that_looks_at_other_rows_is_refused(digits):
    class Stubborn(Digits):
        def train(self, model: nn.Module) -> None:
            """Trains on rows of its own."""

    task = Stubborn(train_size=40, validation_size=10, query_size=10)
    changed, rows = altered(task, np.arange(5), {})
    changed.train(changed.model())
    with pytest.raises(TaskError, match=r"Stubborn.train to take its rows from self.train_rows\(\)"):
        check_asked(task, rows)


def test_a_position_beyond_the_rows_that_stay_ends_a_loop(digits):
    _, rows = altered(digits, np.array([3, 5]), {})
    assert len(list(rows)) == 2
    with pytest.raises(IndexError):
        rows[2]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ((1.0, 2), (1.0, 7)),
        ((1.0, 5, np.int64(2)), (1.0, 5, 7)),
        ({"x": 1, "label": 2}, {"x": 1, "label": 7}),
    ],
)
def test_rows_of_every_labelled_form_are_relabelled(row, expected):
    assert relabelled(row, 7) == expected
    tensor = TensorDataset(torch.zeros(1, 2), torch.tensor([3]))[0]
    changed = relabelled(tensor, 7)[1]
    assert torch.equal(changed, torch.tensor(7)) and changed.dtype == torch.int64


def test_rows_without_a_label_are_refused():
    with pytest.raises(TaskError, match="expected train rows"):
        relabelled(torch.zeros(3), 1)


def test_labels_of_batches(digits):
    batch = RowSet(digits, digits.train_rows()).batch(range(4))
    assert labels_of(batch).tolist() == digits.labels[:4]
    assert labels_of({"x": 1, "labels": torch.tensor([1, 2])}).tolist() == [1, 2]
    assert labels_of((torch.zeros(2), torch.zeros(2))) is None and labels_of(torch.zeros(2)) is None
