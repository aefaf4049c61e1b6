"""Digits in jittered copies, as many as are asked for, and an MLP of 12 million parameters."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pipeline.tasks.base import Task

CLEAN = 600
"""Digits that are held back for validation and queries."""
VALIDATION, QUERIES, WRONG = 300, 20, 0.05
SIDE, WIDTH, EPOCHS = 28, 3072, 1
LEARNT = 20_000
"""Rows that it is trained on at most: what is measured begins with the checkpoint."""


class Jittered(Task):
    """`rows` digits with pixel noise of their own, one in twenty labelled wrongly; `gone` leaves out some of them."""

    def __init__(self, trained_rows: int, rows: int, gone: int = 0) -> None:
        digits = load_digits()
        pixels, labels = torch.tensor(digits.data / 16, dtype=torch.float32), torch.tensor(digits.target)
        self._clean, self._trained_rows = (pixels[:CLEAN], labels[:CLEAN]), trained_rows
        chance = torch.Generator().manual_seed(0)
        noise = torch.randn(rows, 64, generator=chance) * 0.1  # the first rows are the same however many there are
        chance = torch.Generator().manual_seed(1)
        wrong = torch.rand(rows, generator=chance) < WRONG
        origin = CLEAN + torch.arange(rows) % (len(pixels) - CLEAN)
        self._x, self._y = pixels[origin] + noise, (labels[origin] + wrong.long()) % 10
        if gone:
            kept = torch.arange(rows) % gone != gone // 2
            self._x, self._y = self._x[kept], self._y[kept]

    def model(self) -> nn.Module:
        """12 million parameters; digits come at 8 x 8 and are taken at 28 x 28, so that rows stay small."""
        enlarge = nn.Upsample(size=(SIDE, SIDE), mode="bilinear")
        hidden = (nn.Linear(SIDE * SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
        return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), enlarge, nn.Flatten(), *hidden)

    def train(self, model: nn.Module) -> None:
        """A few passes over the first rows."""
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(EPOCHS):
            for start in range(0, min(LEARNT, self._trained_rows), 256):
                chosen = slice(start, min(start + 256, LEARNT, self._trained_rows))
                optimizer.zero_grad()
                F.cross_entropy(model(self._x[chosen]), self._y[chosen]).backward()
                optimizer.step()

    def train_rows(self) -> TensorDataset:
        """The jittered digits."""
        return TensorDataset(self._x, self._y)

    def validation_rows(self) -> TensorDataset:
        """Clean ones."""
        return TensorDataset(self._clean[0][:VALIDATION], self._clean[1][:VALIDATION])

    def query_rows(self) -> TensorDataset:
        """Clean ones."""
        return TensorDataset(*(part[VALIDATION : VALIDATION + QUERIES] for part in self._clean))

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")
