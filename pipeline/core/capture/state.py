"""The state that a model is held in while gradients are captured, and given back afterwards, also after an error."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from pipeline.errors import TaskError


class Held:
    """A model's modules and parameters, listed once: on small models that takes longer than what is done with them."""

    def __init__(self, model: nn.Module, differentiable: Collection[str] = ()) -> None:
        """List them.

        Args:
            model: the model.
            differentiable: names of the parameters that are to have gradients, as in `model.named_parameters()`.
        """
        self._model, self._modules = model, list(model.modules())
        self._parameters = [(value, name in differentiable) for name, value in model.named_parameters()]

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Hold the model in eval mode with gradients enabled for those parameters alone.

        The fast path of `nn.MultiheadAttention` is off meanwhile: it skips the modules inside, and their hooks.
        """
        modes = [module.training for module in self._modules]
        before = [parameter.requires_grad for parameter, _ in self._parameters]
        fast = torch.backends.mha.get_fastpath_enabled()
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            if any(modes):
                self._model.eval()
            for parameter, required in self._parameters:
                _require(parameter, required)
            with torch.enable_grad():
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for module, training in zip(self._modules, modes, strict=True):
                if module.training != training:  # setting it goes through the module's own __setattr__, which is slow
                    module.training = training
            for (parameter, _), required in zip(self._parameters, before, strict=True):
                _require(parameter, required)


def capturing(model: nn.Module, differentiable: Collection[str] = ()) -> AbstractContextManager[None]:
    """The same for a model that is held once."""
    return Held(model, differentiable).capturing()


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
