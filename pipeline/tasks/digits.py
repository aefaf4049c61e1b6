"""The demonstration: 1,797 handwritten digits of 8 x 8 pixels from scikit-learn, with planted label noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from pipeline.tasks.classification import split_rows
from pipeline.tasks.images import ImageTask, Noise, planted_splits
from pipeline.tasks.models import mlp
from pipeline.tasks.options import whole
from pipeline.tasks.training import Recipe


class Digits(ImageTask):
    """scikit-learn's digits and an MLP 64-256-64-10 that learns its planted noise by heart.

    Options:
        train_size, validation_size, query_size: rows of each split, drawn by one seeded permutation; query_size null:
            all that is left (497 by default).
        noise: none, uniform (the default), confusable or instance; planted in the train labels only.
        noise_rate: share of the train labels that are flipped.
        seed: of the split and of the noise.
        epochs: of training.
        hidden: widths of the hidden layers.
    """

    def __init__(
        self,
        train_size: int = 1000,
        validation_size: int = 300,
        query_size: int | None = None,
        noise: str = "uniform",
        noise_rate: float = 0.2,
        seed: int = 0,
        epochs: int = 200,
        hidden: Sequence[int] = (256, 64),
    ) -> None:
        """Options: see the class."""
        from sklearn.datasets import load_digits  # heavy, and needed for this task alone

        data = load_digits()
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        last = None if query_size is None else whole("query_size", query_size, 0)
        parts = split_rows(len(data.target), [*sizes, last], whole("seed", seed, 0))
        images = torch.from_numpy((data.images / 16).astype(np.float32)).unsqueeze(1)
        splits = planted_splits(images, data.target.astype(np.int64), parts, Noise(noise, noise_rate, seed), 10)
        super().__init__(splits, [str(digit) for digit in range(10)], Recipe(whole("epochs", epochs)), side=8)
        self._hidden = [whole("hidden", width) for width in hidden]
        self._made_of = f"load_digits {parts[0].size} {parts[1].size} {parts[2].size} {noise} {noise_rate} {seed}"

    def model(self) -> nn.Module:
        """MLP 64-256-64-10, 33,738 parameters; 64-40-10 with hidden: [40] has 3,010."""
        return mlp([64, *self._hidden, 10])

    def sources(self) -> str:
        """The data come with scikit-learn; the options alone change them."""
        return self._made_of
