"""The state that a model is held in while gradients are captured, and given back afterwards, also after an error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.errors import TaskError


@contextmanager
def capturing(model: nn.Module, differentiable: Collection[str] = ()) -> Iterator[None]:
    """Hold `model` in eval mode with gradients enabled for the parameters in `differentiable` alone.

    The fast path of `nn.MultiheadAttention` is off meanwhile: it skips the modules, and with them the hooks, inside.

    Args:
        model: the model.
        differentiable: names of parameters, as in `model.named_parameters()`.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(name, parameter, parameter.requires_grad) for name, parameter in model.named_parameters()]
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        if any(training for _, training in modes):
            model.eval()
        for name, parameter, _ in flags:
            _require(parameter, name in differentiable)
        with torch.enable_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            if module.training != training:  # setting it goes through the module's own __setattr__, which is slow
                module.training = training
        for _, parameter, required in flags:
            _require(parameter, required)


def _require(parameter: nn.Parameter, required: bool) -> None:
    """Gradients or none, where that is a change: a call takes longer than a look."""
    if parameter.requires_grad != required:
        parameter.requires_grad_(required)


def check_losses(losses: Tensor, rows: int) -> None:
    """Hold a loss to its contract: one number a row.

    Raises:
        TaskError: it has another shape than [B].
    """
    if losses.shape != (rows,):
        raise TaskError(
            f"expected a loss of shape [B] = [{rows}], got {list(losses.shape)}: return one loss a row "
            "(reduction='none', then the mean over all dimensions but the first)"
        )
