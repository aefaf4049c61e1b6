"""The plain training loop of the built-in tasks: shuffled batches, a cosine to zero, and no word on the screen.

Long enough to memorise by default: a tool that looks for wrong labels is tried on models that learnt them by heart.
Order and initial weights come from the global generators, which the caller seeds.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.tasks.base import Task
from pipeline.tasks.rows import RowSet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes:
        epochs: passes over the train rows.
        rate: learning rate at the start; it follows a cosine to zero.
        optimizer: "sgd" (momentum .9) or "adamw".
        batch_rows: B.
        weight_decay: of the optimizer.
        augment: a random change of the inputs of a batch, [B, ...] to the same shape; None: as they are.
    """

    epochs: int
    rate: float = 0.05
    optimizer: str = "sgd"
    batch_rows: int = 64
    weight_decay: float = 0.0
    augment: Callable[[Tensor], Tensor] | None = None

    def make(self, model: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of the trainable parameters."""
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, self.rate, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.rate, momentum=0.9, weight_decay=self.weight_decay)


def fit(task: Task, model: nn.Module, recipe: Recipe) -> None:
    """Train `model` in place on the train rows of `task`; it is left in eval mode.

    The last batch of an epoch is dropped when it holds one row, which batch normalisation cannot take.
    """
    rows = RowSet(task, task.train_rows())
    optimizer = recipe.make(model)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
    model.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(rows))
        total = sum(
            _step(task, model, optimizer, rows, part.tolist(), recipe.augment)
            for part in order.split(recipe.batch_rows)
        )
        task.epoch_ended(model, float(schedule.get_last_lr()[0]))
        schedule.step()
        log.info("epoch %d of %d: mean train loss %.4f nats", epoch + 1, recipe.epochs, total / len(rows))
    model.eval()


def _step(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: RowSet,
    part: list[int],
    augment: Callable[[Tensor], Tensor] | None,
) -> float:
    if len(part) == 1 and len(rows) > 1:
        return 0.0
    batch = rows.batch(part)
    losses = task.loss(model, (augment(batch[0]), *batch[1:]) if augment else batch)
    optimizer.zero_grad()
    losses.mean().backward()
    optimizer.step()
    return float(losses.detach().sum())
