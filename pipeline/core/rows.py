"""Rows as the core sees them, and the mean loss over all of them.

Losses are per sample, [B], in nats; a sum over rows is taken in float64, over batches of bounded size, so that the
batch size changes a result by rounding only.

A loss may draw numbers from torch's global generators (a diffusion loss does). Every call runs under a seed of its own
and leaves those generators as they were, so that two measurements differ by the weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.errors import TaskError


class Rows(Protocol):
    """Rows by position, batched in the way that the loss takes them."""

    def __len__(self) -> int:
        """How many rows there are."""

    def batch(self, indices: Sequence[int]) -> Any:
        """The rows at `indices` as one batch, in that order."""


@dataclass(frozen=True)
class Part:
    """Some of the rows, as rows of their own.

    Attributes:
        rows: the whole.
        indices: positions of the part's rows in the whole.
    """

    rows: Rows
    indices: Sequence[int]

    def __len__(self) -> int:
        """How many rows the part has."""
        return len(self.indices)

    def batch(self, indices: Sequence[int]) -> Any:
        """The part's rows at `indices`."""
        return self.rows.batch([self.indices[i] for i in indices])


def batches(rows: Rows, batch_rows: int) -> Iterator[tuple[Any, int]]:
    """All rows in order: batches of at most `batch_rows`, each with its size."""
    for first in range(0, len(rows), batch_rows):
        indices = range(first, min(first + batch_rows, len(rows)))
        yield rows.batch(indices), len(indices)


def losses_of(model: nn.Module, loss: Loss, batch: Any, count: int, seed: int) -> Tensor:
    """The losses of a batch, checked to be one a row: [B].

    Args:
        model: the model.
        loss: per-sample loss.
        batch: the rows.
        count: B.
        seed: of the global generators while the loss runs.

    Raises:
        TaskError: they are of another shape.
    """
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        values = loss(model, batch)
    if values.shape != (count,):
        raise TaskError(
            f"expected losses of shape [{count}], got {list(values.shape)}: return one value a row, not a mean"
        )
    return values


def row_losses(model: nn.Module, loss: Loss, rows: Rows, batch_rows: int) -> Tensor:
    """The loss of every row, [N], in float64 on the CPU, in eval mode and without gradients."""
    with eval_mode(model), torch.no_grad():
        return torch.cat(
            [
                losses_of(model, loss, batch, count, number).cpu().double()
                for number, (batch, count) in enumerate(batches(rows, batch_rows))
            ]
        )


def mean_loss(model: nn.Module, loss: Loss, rows: Rows, batch_rows: int) -> float:
    """The mean loss of all rows, in nats."""
    return float(row_losses(model, loss, rows, batch_rows).mean())


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Within the context the whole model is in eval mode; after it every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
