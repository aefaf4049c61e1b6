"""Slow, dense, obviously right: what the engines are compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def row_of(batch: Any, i: int) -> Any:
    """Row `i` of a nested batch of tensors, as a batch of one."""
    if isinstance(batch, Tensor):
        return batch[i : i + 1] if batch.dim() else batch
    if isinstance(batch, dict):
        return {key: row_of(value, i) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        if isinstance(batch[0], str):
            return batch[i : i + 1]
        return type(batch)(row_of(value, i) for value in batch)
    return batch


def per_sample_gradients(
    model: nn.Module, loss: Callable[[nn.Module, Any], Tensor], batch: Any, rows: int, names: Sequence[str]
) -> Tensor:
    """Gradients of the loss of each row, [B, P], by a loop over `torch.autograd.grad`; parameters as in `names`."""
    parameters = dict(model.named_parameters())
    chosen = [parameters[name] for name in names]
    training = model.training
    model.eval()
    gradients = []
    for i in range(rows):
        value = loss(model, row_of(batch, i))
        assert value.shape == (1,)
        found = torch.autograd.grad(value[0], chosen, allow_unused=True)
        gradients.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(chosen, found, strict=True)])
        )
    model.train(training)
    return torch.stack(gradients)
