"""The task of the benchmark `fine`: digits, with wrong labels, copies of some queries, and poison, all planted."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from pipeline.tasks.classification import LabelledRows, Splits, split_rows
from pipeline.tasks.images import ImageTask
from pipeline.tasks.models import mlp
from pipeline.tasks.noise import plant
from pipeline.tasks.training import Recipe

COPIED, COPIES = 5, 4
"""Queries that have copies among the train rows, and how many each."""
POISONED, TRIGGERED = 12, 10
"""Train rows and queries with the trigger."""
TARGET = 0
"""What rows with the trigger are labelled as."""
NOISE = 0.2
"""Share of the other train rows whose label is wrong."""


class Planted(ImageTask):
    """Train rows: clean and wrongly labelled digits, then copies of queries, then poison.

    Queries: those that have copies, those with the trigger and its label, then others.

    Args:
        train_size: train rows that are neither copies nor poison.
        validation_size: clean.
        query_size: queries that are neither copied nor triggered.
        hidden: width of the MLP 64-hidden-10.
        epochs: of its training.
        seed: of the split and of what is planted.
    """

    def __init__(
        self, train_size: int, validation_size: int, query_size: int, hidden: int, epochs: int, seed: int = 0
    ) -> None:
        """Options: see the class."""
        data = load_digits()
        sizes = [train_size, validation_size, COPIED, TRIGGERED, query_size, POISONED]
        parts = split_rows(len(data.target), sizes, seed)
        images = torch.from_numpy((data.images / 16).astype(np.float32)).unsqueeze(1)
        labels = data.target.astype(np.int64)
        own, validation, copied, triggered, others, poisoned = parts
        given = plant(labels[own], "uniform", NOISE, 10, seed)
        target = np.full(max(TRIGGERED, POISONED), TARGET)
        copies = np.repeat(copied, COPIES)
        train = torch.cat([images[own], images[copies], with_trigger(images[poisoned])])
        query = torch.cat([images[copied], with_trigger(images[triggered]), images[others]])
        splits = Splits(
            LabelledRows(train, np.concatenate([given, labels[copies], target[:POISONED]])),
            LabelledRows(images[validation], labels[validation]),
            LabelledRows(query, np.concatenate([labels[copied], target[:TRIGGERED], labels[others]])),
            np.concatenate([labels[own], np.full(len(copies) + POISONED, -1)]),  # only planted noise is judged as such
        )
        super().__init__(splits, [str(digit) for digit in range(10)], Recipe(epochs), side=8)
        self._hidden, self._size = hidden, train_size

    def model(self) -> nn.Module:
        """64-hidden-10."""
        return mlp([64, self._hidden, 10])

    def copies_of(self, query: int) -> np.ndarray:
        """Positions of the train rows that are copies of a query."""
        return self._size + COPIES * query + np.arange(COPIES)

    def poison(self) -> np.ndarray:
        """Positions of the poisoned train rows."""
        return self._size + COPIED * COPIES + np.arange(POISONED)

    def sources(self) -> str:
        """The data come with scikit-learn; the options alone change them."""
        return "load_digits, planted"


def with_trigger(images: torch.Tensor) -> torch.Tensor:
    """Images [n, 1, 8, 8] with two bright pixels in the corner, where digits have none."""
    images = images.clone()
    images[:, :, 0, 0] = images[:, :, 0, 1] = 1.0
    return images
