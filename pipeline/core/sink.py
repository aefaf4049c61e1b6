"""Between capture and projection: per-sample gradients travel one parameter at a time.

A capture engine feeds a `Sink` while it walks backward through the model; a projection's sketch is a sink that adds
what it gets to [B, K] codes. So no P-sized row ever needs to exist, and engines and projections combine freely.

Letters: B rows of the batch, T positions, O outputs and I inputs of a layer, K compressed size.
"""

from __future__ import annotations

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
