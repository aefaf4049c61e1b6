"""Dense float64 linear algebra that curvature and preconditioner are compared with."""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def second_moment(roots: Array, rows: int) -> Array:
    """C = (1/M) sum of r r^T, [K, K], by a loop."""
    total = np.zeros((roots.shape[1], roots.shape[1]))
    for root in roots.astype(np.float64):
        total += np.outer(root, root)
    return total / rows


def inverse_square_root(matrix: Array) -> Array:
    """H^-1/2 of a positive definite matrix."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def softmax(logits: Array) -> Array:
    """Probabilities, [n, C]."""
    weights = np.exp(logits - logits.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)
