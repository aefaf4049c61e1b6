"""From logits to probabilities that mean what they say: one factor on the logits, fitted to rows that were held out.

Source: Guo et al., ICML 2017 (temperature; the factor is its inverse).
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FACTORS = 20.0
"""The factor is at most this, and at least its inverse."""


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    risen = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(risen / risen.sum(-1, keepdims=True))


def loss_of(logits: Array, labels: Array) -> float:
    """The mean of -ln softmax(logits)(label), nats, however unlikely a label is.

    Args:
        logits: [n, C].
        labels: [n].
    """
    lower = logits - logits.max(-1, keepdims=True)
    return float((np.log(np.exp(lower).sum(-1)) - lower[np.arange(len(labels)), labels]).mean())


def temperature(logits: Array, labels: Array, most: float = FACTORS) -> float:
    """The factor on logits, 1/most to most, that makes the mean loss on held-out rows least.

    Args:
        logits: or log probabilities, [M, C].
        labels: [M], clean.
        most: see above.
    """
    low, high = -np.log(most), np.log(most)
    golden = (np.sqrt(5) - 1) / 2

    def loss(log_factor: float) -> float:
        return loss_of(logits * np.exp(log_factor), labels)

    for _ in range(40):  # the loss is convex in the factor, so that it has one minimum
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))
