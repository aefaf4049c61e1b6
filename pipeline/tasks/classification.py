"""What the built-in classification tasks have in common: labelled rows, cross-entropy, a training loop.

A row is (input, label). `given` labels may be wrong (planted or human noise); `true` ones are for evaluation only.
Letters: N rows of a split, B rows of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.errors import DataError
from pipeline.tasks.base import Batch, Row, Task
from pipeline.tasks.noise import Labels, stream
from pipeline.tasks.training import Recipe, fit


class LabelledRows(Dataset[Row]):
    """Rows (input, label).

    Attributes:
        inputs: anything with [i]: a tensor [N, ...] or a sequence that makes the input when it is asked for.
        labels: [N] given labels.
    """

    def __init__(self, inputs: Any, labels: Labels) -> None:
        """Inputs and as many labels."""
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def __getitem__(self, index: int) -> Row:
        """(input, label as int)."""
        return self.inputs[index], int(self.labels[index])


@dataclass(frozen=True)
class Splits:
    """Three disjoint sets of rows; validation and query labels are clean.

    Attributes:
        train: with the given labels.
        validation: clean.
        query: clean.
        true: [N] true labels of the train rows.
    """

    train: Dataset[Row]
    validation: Dataset[Row]
    query: Dataset[Row]
    true: Labels


class Classification(Task):
    """Base of the built-in classifiers; a subclass gives `model`, `sources`, and the splits to `__init__`."""

    def __init__(self, splits: Splits, names: Sequence[str], recipe: Recipe) -> None:
        """The rows, the names of the C classes, and how to train."""
        self._splits, self._names, self._recipe = splits, tuple(names), recipe

    def train_rows(self) -> Dataset[Row]:
        """Rows with the given labels."""
        return self._splits.train

    def validation_rows(self) -> Dataset[Row]:
        """Clean rows."""
        return self._splits.validation

    def query_rows(self) -> Dataset[Row]:
        """Rows to explain."""
        return self._splits.query

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Class scores, [B, C]."""
        scores: Tensor = model(batch[0])
        return scores

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy with the label of the row, [B], in nats."""
        return F.cross_entropy(self.logits(model, batch), batch[1], reduction="none")

    def train(self, model: nn.Module) -> None:
        """Train until the given labels are known by heart."""
        fit(self, model, self._recipe)

    @property
    def labels(self) -> list[int]:
        """Given labels of the train rows, [N]."""
        rows = self._splits.train
        assert isinstance(rows, LabelledRows)
        return [int(label) for label in rows.labels]

    @property
    def true_labels(self) -> list[int]:
        """True labels of the train rows, [N]."""
        return [int(label) for label in self._splits.true]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, [C]."""
        return self._names


def split_rows(count: int, sizes: Sequence[int | None], seed: int) -> list[Labels]:
    """Disjoint positions for each size, from one seeded permutation of `count` rows.

    Args:
        count: rows there are.
        sizes: of each part; None, for the last one: all that is left.
        seed: of the permutation.

    Raises:
        DataError: the sizes are more than there is.
    """
    wanted = sum(size or 0 for size in sizes)
    if wanted > count:
        raise DataError(f"expected at most {count} rows in all splits together, got {wanted}; ask for smaller sizes")
    order = stream(seed, "split").permutation(count)
    ends = np.cumsum([0] + [count - wanted if size is None else size for size in sizes])
    return [order[first:last] for first, last in pairwise(ends)]
