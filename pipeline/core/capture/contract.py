"""What a task promises of its loss, tried on a probe of a few rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.capture import batches
from pipeline.core.capture.engine import Loss
from pipeline.core.capture.state import capturing, check_losses
from pipeline.errors import TaskError

LOSS_TOLERANCE = 1e-3  # of a row alone against the row in its batch: float32 on another batch size


def check_loss(model: nn.Module, loss: Loss, probe: Any) -> Tensor:
    """Hold the loss to the contract of a task: [B], finite, and no row looks at another.

    Returns:
        The losses, [B], some of them finite.

    Raises:
        TaskError: it breaks the contract.
    """
    size = batches.batch_size(probe)
    with capturing(model), torch.no_grad():
        losses = loss(model, probe)
        check_losses(losses, size)
        alone = [_loss_alone(model, loss, batches.rows(probe, i, i + 1, size)) for i in range(size)]
    if not losses.isfinite().any():
        raise TaskError(f"expected finite losses, got {losses.tolist()} for all probe rows: look at weights and data")
    apart = torch.cat(alone)
    if not torch.allclose(losses, apart, rtol=LOSS_TOLERANCE, atol=LOSS_TOLERANCE, equal_nan=True):
        raise TaskError(
            f"expected the loss of a row to be the same alone and in a batch, got {apart.tolist()} and "
            f"{losses.tolist()}: no row may look at another (batch statistics, contrastive losses, fresh noise)"
        )
    return losses


def _loss_alone(model: nn.Module, loss: Loss, row: Any) -> Tensor:
    try:
        losses = loss(model, row)
    except Exception as error:
        raise TaskError(f"expected a loss that takes a batch of one, got {type(error).__name__}: {error}") from error
    check_losses(losses, 1)
    return losses
