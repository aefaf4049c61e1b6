"""Between capture and projection: per-sample gradients travel one parameter at a time.

A capture engine feeds a `Sink` while it walks backward through the model; a projection's sketch is a sink that adds
what it gets to [B, K] codes. So no P-sized row ever needs to exist, and engines and projections combine freely: several
projections, too, in one pass over the data.

Letters: B rows of the batch, T positions, O outputs and I inputs of a layer, K compressed size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from pipeline.core.factors import Factor


class Sink(Protocol):
    """Takes the per-sample gradients of one batch.

    Each parameter arrives exactly once a batch, whole: an engine sums tied weights and repeated uses before.
    """

    def dense(self, name: str, gradient: Tensor) -> None:
        """The gradient of parameter `name`, materialised: [B, *shape of the parameter]."""

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """The gradient of a matrix parameter [O, I] as factors: sum over t of output[b, t] input[b, t]^T.

        Args:
            name: the parameter.
            output: gradients of the loss with respect to the layer's outputs, [B, T, O].
            input: the layer's inputs, [B, T, I].
        """


class Several:
    """Several sinks as one: each gets every gradient, in their order. A sink must leave what it is given as it is."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        """Take the sinks."""
        self._sinks = tuple(sinks)

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.dense(name, gradient)

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        for sink in self._sinks:
            sink.outer(name, output, input)
