"""What is known before any work, and every complaint about a task that does not fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import TensorDataset

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Task
from pipeline.tasks.checks import Facts, check_task, row_set
from tests.tasks.examples import Regression, TinyLanguageModel

LABELS = [0, 1, 2] * 6
X = torch.randn(18, 4, generator=torch.Generator().manual_seed(0))


class Three(Task):
    """A sound classification with three classes; the tests break one part each."""

    given: Any = LABELS
    true: Any = None
    names: Any = None

    def model(self) -> Any:
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def train_rows(self) -> Any:
        return TensorDataset(X, torch.tensor(LABELS))

    def validation_rows(self) -> Any:
        return TensorDataset(X[:3], torch.tensor(LABELS[:3]))

    def query_rows(self) -> Any:
        return []

    def logits(self, model: nn.Module, batch: Any) -> Any:
        return model(batch[0])

    def loss(self, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    @property
    def labels(self) -> Any:
        return self.given

    @property
    def true_labels(self) -> Any:
        return self.true

    @property
    def classes(self) -> Any:
        return self.names


def broken(**parts: Any) -> Task:
    return type("Broken", (Three,), parts)()


def test_the_facts_of_a_classification() -> None:
    assert check_task(Three()) == Facts(18, 3, 0, 3, ("0", "1", "2"), False, True, True, False)
    named = check_task(
        broken(names=["a", "b", "c"], true=[-1] * 18, given=np.array(LABELS), train=lambda self, model: None)
    )
    assert named == Facts(18, 3, 0, 3, ("a", "b", "c"), True, True, True, True)
    assert check_task(broken(given=torch.tensor(LABELS))).labelled
    assert check_task(broken(given=None)) == Facts(18, 3, 0, 3, ("0", "1", "2"), False, True, False, False)


def test_the_facts_of_other_kinds() -> None:
    assert check_task(Regression()) == Facts(60, 30, 10, None, None, True, False, False, False)
    assert check_task(TinyLanguageModel()) == Facts(40, 10, 5, None, None, True, False, False, False)


def test_the_check_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    check_task(Three())
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_loss_that_draws_noise_is_no_relabelling_fault() -> None:
    def loss(self: Any, model: nn.Module, batch: Any) -> Any:
        return F.cross_entropy(model(batch[0] + torch.randn_like(batch[0])), batch[1], reduction="none")

    assert check_task(broken(loss=loss)).labelled


def test_one_row_of_each_is_enough() -> None:
    class One(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.parts = [TensorDataset(*(t[:1] for t in part.tensors)) for part in self.parts]

    assert check_task(One()).train == 1


def raiser(error: BaseException) -> Any:
    def method(self: Any, *arguments: Any) -> Any:
        raise error

    return method


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (
            {"train_rows": lambda self: []},
            DataError,
            r"^expected train rows, got none from Broken.train_rows\(\); give at least one$",
        ),
        (
            {"validation_rows": lambda self: []},
            DataError,
            r"^expected validation rows, got none from Broken.validation_rows\(\)",
        ),
        ({"train_rows": lambda self: iter([])}, DataError, r"^expected train rows by index, got list_iterator"),
        (
            {"query_rows": raiser(OSError("gone"))},
            TaskError,
            r"^expected Broken.query_rows\(\) to work, got OSError: gone \(test_checks.py, line \d+\); mend",
        ),
        (
            {"query_rows": lambda self: [(torch.zeros(9), 1)]},
            TaskError,
            r"^expected Broken.loss\(\) on 1 query rows to work, got RuntimeError",
        ),
        (
            {"given": LABELS[:5]},
            DataError,
            r"^expected labels of shape \[18\], one a train row, got \[5\]; keep labels",
        ),
        ({"given": [[1]] * 18}, DataError, r"^expected labels of shape \[18\], one a train row, got \[18, 1\]"),
        (
            {"given": [0.0, 1, 2] * 6},
            DataError,
            r"^expected labels as integers, got float64; number the classes from 0$",
        ),
        ({"given": ["a", "b", "c"] * 6}, DataError, r"^expected labels as integers, got <U1"),
        (
            {"given": [0, 1, 3] * 6},
            DataError,
            r"^expected labels from 0 to 2, got 3 in train row 2 \(6 in all\); number",
        ),
        ({"given": [0, 1, -1] * 6}, DataError, r"^expected labels from 0 to 2, got -1 in train row 2"),
        (
            {"given": [1] * 18},
            DataError,
            r"^expected labels of at least two classes, got 1 for all 18 train rows; give rows",
        ),
        (
            {"given": LABELS[::-1]},
            DataError,
            r"^expected the loss of train row \d+ to stay as it is when it is given its own label.*order of train_rows",
        ),
        (
            {"labels": property(raiser(KeyError("y")))},
            TaskError,
            r"^expected Broken.labels to work, got KeyError: 'y' \(test_checks.py",
        ),
        ({"true": [0] * 17}, DataError, r"^expected true_labels of shape \[18\], one a train row, got \[17\]"),
        (
            {"true": [-2] + [0] * 17},
            DataError,
            r"^expected true_labels \(-1: unknown\) from -1 to 2, got -2 in train row 0",
        ),
        (
            {"names": ["a", "b"]},
            TaskError,
            r"^expected 3 names in Broken.classes, as logits have 3 columns, got 2; name every class once$",
        ),
        (
            {"model": lambda self: "resnet"},
            TaskError,
            r"^expected Broken.model\(\) to return a torch.nn.Module, got str; return the model$",
        ),
        (
            {"model": raiser(FileNotFoundError("no weights"))},
            TaskError,
            r"^expected Broken.model\(\) to work, got FileNotFoundError: no weights",
        ),
        (
            {"model": lambda self: nn.ReLU()},
            TaskError,
            r"^expected Broken.model\(\) to have trainable parameters, got none; set requires_grad",
        ),
        (
            {"loss": raiser(ValueError("shapes"))},
            TaskError,
            r"^expected Broken.loss\(\) on 8 train rows to work, got ValueError: shapes \(test_checks.py, line \d+\)",
        ),
        (
            {"logits": raiser(ValueError("oh"))},
            TaskError,
            r"^expected Broken.logits\(\) on 8 train rows to work, got ValueError: oh",
        ),
        (
            {"logits": lambda self, model, batch: model(batch[0])[:, :1]},
            TaskError,
            r"logits\(\) of shape \[8, C\] with C >= 2, got \[8, 1\]; return one",
        ),
        (
            {"logits": lambda self, model, batch: model(batch[0]).sum(0)},
            TaskError,
            r"of shape \[8, C\] with C >= 2, got \[3\]",
        ),
        ({"logits": lambda self, model, batch: None}, TaskError, r"of shape \[8, C\] with C >= 2, got NoneType"),
        (
            {"relabel": raiser(NotImplementedError("no form"))},
            TaskError,
            r"^expected Broken.relabel\(\) to work, got NotImplementedError: no form",
        ),
        (
            {"groups": lambda self, split: ["a"] * 17},
            DataError,
            r"^expected groups\('train'\) to be a list of the group of each of 18 train rows, got 17 of them; give one",
        ),
        ({"groups": lambda self, split: "author"}, DataError, r"each of 18 train rows, got others; give one a row"),
        (
            {"groups": lambda self, split: list(range(18)) if split == "train" else None},
            DataError,
            r"^expected groups\('train'\) to be names, got 0 for row 0; write str",
        ),
        ({"groups": raiser(KeyError("x"))}, TaskError, r"^expected Broken.groups\('train'\) to work, got KeyError"),
        (
            {"relabel": lambda self, batch, labels: batch[0]},
            TaskError,
            r"^expected Broken.loss\(\) after relabel\(\) to work, got",
        ),
    ],
)
def test_every_complaint(parts: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_task(broken(**parts))


def test_labels_without_logits_are_checked_against_the_names() -> None:
    class Named(Regression):
        labels = property(lambda self: [0, 1, 2] * 20)
        classes = property(lambda self: ["low", "high"])

    with pytest.raises(DataError, match="expected labels from 0 to 1, got 2 in train row 2"):
        check_task(Named())


def test_row_sets_are_named_after_their_split() -> None:
    assert [row_set(Regression(), split).split for split in ("train", "validation", "query")] == [
        "train",
        "validation",
        "query",
    ]
