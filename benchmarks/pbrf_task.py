"""The task of the PBRF benchmark: digits, a tanh MLP of 1,210 parameters, SGD with weight decay, in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

from pipeline.tasks.base import Task

DECAY = 1e-3


class TanhDigits(Task):
    """500 train, 100 validation and 20 query rows, drawn by `seed`.

    Args:
        seed: of the split.
        epochs: of SGD.
    """

    def __init__(self, seed: int = 0, epochs: int = 100) -> None:
        """Options: see the class."""
        data = load_digits()
        order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
        x, y = torch.tensor(data.data / 16)[order], torch.tensor(data.target)[order].long()
        self.parts = [(x[a:b], y[a:b]) for a, b in ((0, 500), (500, 600), (600, 620))]
        self.kept, self.epochs = torch.arange(500), epochs

    def model(self):
        """64-16-10."""
        return nn.Sequential(nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10)).double()

    def train_rows(self):
        """Train."""
        return TensorDataset(*self.parts[0])

    def validation_rows(self):
        """Validation."""
        return TensorDataset(*self.parts[1])

    def query_rows(self):
        """Query."""
        return TensorDataset(*self.parts[2])

    def loss(self, model, batch):
        """Cross-entropy, nats."""
        return F.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def logits(self, model, batch):
        """[B, 10]."""
        return model(batch[0])

    @property
    def labels(self):
        """As given."""
        return self.parts[0][1].tolist()

    def train(self, model):
        """SGD whose rate falls along a cosine, over the rows in `kept`; their order does not depend on which are."""
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)
        x, y = self.parts[0]
        inside = torch.zeros(len(x), dtype=torch.bool)
        inside[self.kept] = True
        for _ in range(self.epochs):
            for part in torch.randperm(len(x)).split(50):
                part = part[inside[part]]
                optimizer.zero_grad()
                self.loss(model, (x[part], y[part])).mean().backward()
                optimizer.step()
            schedule.step()
