"""The smallest task that goes through every stage: 48 points in the plane, three classes, a linear model."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from pipeline.tasks.base import Task

TRAIN, VALIDATION = 48, 12


class Tiny(Task):
    """Points in three clouds; every eighth label of the train rows is wrong."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        rows = TRAIN + VALIDATION + 4
        self.y = torch.arange(rows) % 3
        centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]])
        self.x = centres[self.y] + torch.randn(rows, 2, generator=generator)
        self.given = torch.where(torch.arange(rows) % 8 == 5, (self.y + 1) % 3, self.y)[:TRAIN]

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(2, 3)

    def train(self, model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(50):
            optimizer.zero_grad()
            F.cross_entropy(model(self.x[:TRAIN]), self.given).backward()
            optimizer.step()

    def train_rows(self) -> TensorDataset:
        return TensorDataset(self.x[:TRAIN], self.given)

    def validation_rows(self) -> TensorDataset:
        return TensorDataset(self.x[TRAIN:-4], self.y[TRAIN:-4])

    def query_rows(self) -> TensorDataset:
        return TensorDataset(self.x[-4:], self.y[-4:])

    def loss(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def logits(self, model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return model(batch[0])

    @property
    def labels(self) -> list[int]:
        return self.given.tolist()

    def sources(self) -> str:
        return "1"
