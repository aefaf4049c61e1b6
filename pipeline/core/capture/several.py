"""Several models and several projections in one pass over the data: a batch is read once, whatever is made of it.

Letters: B rows of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pipeline.core.capture.engine import Engine
from pipeline.core.factors import Factor
from pipeline.core.sink import Sink


class Fan:
    """A sink that hands everything on to several: one forward and backward pass, several projections."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        """Take the sinks."""
        self._sinks = sinks

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.dense(name, gradient)

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.outer(name, output, input)


def capture_all(batch: Any, takers: Sequence[tuple[Engine, Sequence[Sink]]]) -> list[Tensor]:
    """Feed the gradients of a batch at several checkpoints to their sinks.

    Args:
        batch: B rows.
        takers: for each checkpoint the engine of its model, and sinks.

    Returns:
        The losses at each checkpoint, [B] each.
    """
    return [engine.capture(batch, sinks[0] if len(sinks) == 1 else Fan(sinks)) for engine, sinks in takers]
