"""Inputs that stand in two splits are named, whatever their labels and whatever the form of the rows."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import config as settings
from pipeline.errors import DataError
from pipeline.steps import prepare
from pipeline.steps.job import Job
from pipeline.steps.shared import shared_rows
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Task

X = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
TRAIN, VALIDATION = [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0), (5, 1)], [(10, 0), (11, 1), (3, 1)]
QUERY = [(12, 0), (1, 0), (0, 0), (2, 1), (1, 0), (11, 1), (4, 1), (4, 0)]
"""Which input and label each row has. Query rows repeat train 0 as it is, 1 and 2 under another label, 4 under both."""

LINES = [
    "train rows with the input of a validation row: 1 (train 3 and validation 2); evaluation on them flatters",
    "train rows with the input of a query row: 4, 2 of them under another label (train 1 and query 1, train 2 and "
    "query 3, train 0 and query 2); evaluation on them flatters",
    "validation rows with the input of a query row: 1 (validation 1 and query 5); evaluation on them flatters",
]


class Rows(Task):
    """Rows (input, label)."""

    query = QUERY

    def form(self, x: Tensor, label: int) -> Any:
        return x, label

    def model(self):
        return torch.nn.Linear(3, 2)

    def train_rows(self):
        return [self.form(X[i], label) for i, label in TRAIN]

    def validation_rows(self):
        return [self.form(X[i], label) for i, label in VALIDATION]

    def query_rows(self):
        return [self.form(X[i], label) for i, label in self.query]

    def logits(self, model, batch):
        return model(self.parts(batch)[0])

    def parts(self, batch):
        return batch

    def loss(self, model, batch):
        return torch.nn.functional.cross_entropy(self.logits(model, batch), self.parts(batch)[1], reduction="none")

    def train(self, model):
        pass

    @property
    def labels(self):
        return [label for _, label in TRAIN]


class Dicts(Rows):
    """Rows with the label first."""

    def form(self, x, label):
        return {"labels": label, "x": x}

    def parts(self, batch):
        return batch["x"], batch["labels"]


@dataclass(frozen=True)
class Pair:
    y: Tensor
    x: Tensor


class Objects(Rows):
    """Rows whose form only the task knows."""

    def form(self, x, label):
        return Pair(torch.tensor(label), x)

    def parts(self, batch):
        return batch.x, batch.y

    def collate(self, rows):
        return Pair(torch.stack([row.y for row in rows]), torch.stack([row.x for row in rows]))

    def relabel(self, batch, labels):
        return Pair(labels, batch.x)


class Backwards(Rows):
    """Rows (label, input), which `collate` turns round."""

    def form(self, x, label):
        return label, x

    def collate(self, rows):
        return torch.stack([x for _, x in rows]), torch.tensor([label for label, _ in rows])


class Mappings(Dicts):
    """Batches as tokenizers make them, which are no dicts."""

    def collate(self, rows):
        return UserDict(super().collate(rows))

    def relabel(self, batch, labels):
        return UserDict({**batch, "labels": labels})


class Unnamed(Rows):
    """Batches that hold something without bytes of its own."""

    def collate(self, rows):
        return {**dict(zip(("x", "label"), super().collate(rows), strict=True)), "note": {"no", "bytes"}}

    def parts(self, batch):
        return batch["x"], batch["label"]


class Unlabelled(Rows):
    """Nobody says which labels were given."""

    labels = None


class Stubborn(Rows):
    """Query rows cannot be given another label."""

    def query_rows(self):
        return [(x, label, torch.zeros(1)) for x, label in super().query_rows()]

    def parts(self, batch):
        return batch[:2]

    def relabel(self, batch, labels):
        x, _ = batch
        return x, labels


def prepared(directory: Path, task: Task, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, list[str]]:
    """A run of the task that has been prepared, and what that said."""
    monkeypatch.setattr(prepare, "load_task", lambda section: task)
    config = settings.validate(settings.merge(settings.defaults(), {"plan": {"shard_rows": 10}}))
    said: list[str] = []
    prepare.run(Job("prepare", Layout(directory), config, said.append))
    return Layout(directory), said


@pytest.mark.parametrize("kind", [Rows, Dicts, Objects, Backwards, Mappings])
def test_inputs_are_compared_whatever_the_labels(tmp_path, monkeypatch, kind):
    layout, said = prepared(tmp_path, kind(), monkeypatch)
    assert shared_rows(layout) == LINES
    assert said[-3:] == LINES


@pytest.mark.parametrize("kind", [Unlabelled, Unnamed])
def test_rows_without_labels_are_compared_whole(tmp_path, monkeypatch, kind):
    assert shared_rows(prepared(tmp_path, kind(), monkeypatch)[0]) == [
        LINES[0],
        "train rows with the input of a query row: 2 (train 0 and query 2, train 4 and query 7); evaluation on them "
        "flatters",
        LINES[2],
    ]


def test_nothing_is_said_of_disjoint_splits(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "VALIDATION", VALIDATION[:2])
    task = Rows()
    task.query = [(12, 0), (13, 1)]
    layout, said = prepared(tmp_path, task, monkeypatch)
    assert shared_rows(layout) == [] and not any("flatters" in line for line in said)


def test_a_row_that_cannot_be_relabelled_is_named(tmp_path, monkeypatch):
    message = r"^expected query row 0 to be collated and relabelled, got ValueError.*give all rows one form, or write"
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, Stubborn(), monkeypatch)
