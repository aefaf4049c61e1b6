"""The interface of the capture engines.

For a batch of B rows with losses l_b, an engine feeds d l_b / d theta to a sink, parameter by parameter: gradients of
the per-sample loss, never of the mean. The model is in eval mode throughout (BatchNorm uses its running statistics,
dropout is off), so that rows do not see each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor, nn

from pipeline.core.sink import Sink

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> [B]


class Engine(Protocol):
    """Captures the per-sample gradients of some of a model's parameters."""

    names: tuple[str, ...]
    """The parameters that this engine serves, as in `model.named_parameters()`."""

    def capture(self, batch: Any, sink: Sink) -> Tensor:
        """Feed the gradients of `batch` to `sink` and return the losses, [B]."""
