"""What the other rows say of a row: kernel ridge regression on what is believed of them, the row itself left out.

Rows are points x in a space (features of a model, or inputs), each with a belief q(y), a distribution over the labels.
The regression of q on the points, with the kernel

    k(x, x') = exp(-|x - x'|² / s),   s the median squared distance between landmarks

and a ridge l, is taken in the Nyström features φ(x) = E^(-1/2) Uᵀ k(L, x) of at most m landmarks L, rows drawn by a
seed, with k(L, L) = U E Uᵀ. Its prediction for row i without row i needs no second regression: with fitted p_i and
leverage h_i = φ_iᵀ (Φᵀ Φ + l)⁻¹ φ_i (+ 1/N for the mean),

    r_i = (p_i - h_i q_i) / (1 - h_i)

so that a row's own label, whatever a model knows by heart, has no part in what is said of it. Probabilities are
softmax(t r); l, of seven, and t make the loss on clean rows least, which the regression predicts as it does a row left
out.

Time N (m D + m²), memory beside the points m² and a block. Letters: N rows, M clean rows, C classes, D numbers a point.
Sources: Nyström features, Williams and Seeger, NIPS 2000; leaving out in closed form, Allen 1974 (PRESS).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.calibration import loss_of, softmax, temperature

Array = np.ndarray[Any, Any]

RIDGES = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0))
"""As shares of the largest eigenvalue of Φᵀ Φ."""
BLOCK = 4096
"""Rows at a time. Fixed, so that sums are taken in the same order whatever memory there is."""
SMALLEST = 1e-8
"""Share of the largest eigenvalue of k(L, L) below which a direction is left out."""
FULL_LEVERAGE = 0.999
"""A row that determines its own prediction says nothing of itself when it is left out; this keeps it finite."""
FACTORS = 400.0
"""t is at most this: beliefs spread over many labels differ by little."""


@dataclass(frozen=True)
class Kernel:
    """Nyström features of a kernel.

    Attributes:
        landmarks: [m, D].
        scale: s.
        turn: U E^(-1/2), [m, r].
    """

    landmarks: Array
    scale: float
    turn: Array

    def features(self, points: Array) -> Array:
        """φ of points [n, D], [n, r]."""
        return np.asarray(_kernel(points, self.landmarks, self.scale) @ self.turn)


def kernel_of(points: Array, count: int, seed: int) -> Kernel | None:
    """The kernel of some points [N, D]; None: its landmarks are all at one place."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(points))[:count])
    landmarks = points[chosen].astype(np.float64)
    apart = _squared_distances(landmarks, landmarks)[np.triu_indices(len(landmarks), 1)]
    scale = float(np.median(apart)) if len(apart) else 0.0
    if not scale > 0:
        return None
    values, vectors = np.linalg.eigh(_kernel(landmarks, landmarks, scale))
    kept = values > SMALLEST * values[-1]
    return Kernel(landmarks, scale, vectors[:, kept] / np.sqrt(values[kept]))


@dataclass(frozen=True)
class Regression:
    """Of beliefs on centred φ, in the eigenvectors of its second moments.

    Attributes:
        middle: mean of φ, [r].
        level: mean of q, [C].
        vectors: of Φᵀ Φ, [r, r].
        values: its eigenvalues, [r].
        products: Φᵀ q in the eigenvectors, [r, C].
    """

    middle: Array
    level: Array
    vectors: Array
    values: Array
    products: Array


def others_say(points: Array, beliefs: Array, clean: Array, labels: Array, kernel: Kernel) -> tuple[Array, Array]:
    """What the other rows say of each train row, [N, C], and all of them of clean rows, [M, C]; rows sum to 1.

    Args:
        points: train rows, [N, D].
        beliefs: q, [N, C].
        clean: clean rows, [M, D].
        labels: of these, [M].
        kernel: of the points.
    """
    found = _regression(points, beliefs, kernel)
    turned = (kernel.features(clean.astype(np.float64)) - found.middle) @ found.vectors
    trials = []
    for ridge in np.array(RIDGES) * found.values[-1]:
        said = turned @ (found.products / (found.values + ridge)[:, None]) + found.level
        factor = temperature(said, labels, FACTORS)
        of_clean = softmax(factor * said)
        trials.append((loss_of(of_clean, labels), ridge, factor, of_clean))
    _, ridge, factor, of_clean = min(trials, key=lambda trial: trial[0])
    of_train = [softmax(factor * said) for said in _left_out(points, beliefs, kernel, found, ridge)]
    return np.concatenate(of_train), of_clean


def _left_out(points: Array, beliefs: Array, kernel: Kernel, found: Regression, ridge: float) -> Iterator[Array]:
    """r of the train rows, a block at a time, [n, C]."""
    inverse = 1 / (found.values + ridge)
    for cut in _cuts(len(points)):
        turned = (kernel.features(points[cut].astype(np.float64)) - found.middle) @ found.vectors
        fitted = (turned * inverse) @ found.products
        leverage = (turned**2 @ inverse + 1 / len(points))[:, None]
        leverage = np.minimum(leverage, FULL_LEVERAGE)
        yield (fitted - leverage * (beliefs[cut] - found.level)) / (1 - leverage) + found.level


def _regression(points: Array, beliefs: Array, kernel: Kernel) -> Regression:
    """In one pass over the rows."""
    width, count = kernel.turn.shape[1], len(points)
    squares, products, sums = np.zeros((width, width)), np.zeros((width, beliefs.shape[1])), np.zeros(width)
    level = beliefs.mean(0)
    for cut in _cuts(count):
        phi = kernel.features(points[cut].astype(np.float64))
        squares += phi.T @ phi
        products += phi.T @ (beliefs[cut] - level)  # of which a constant in φ takes nothing
        sums += phi.sum(0)
    middle = sums / count
    values, vectors = np.linalg.eigh(squares - np.outer(sums, middle))
    return Regression(middle, level, vectors, np.maximum(values, 0), vectors.T @ products)


def _cuts(count: int) -> Iterator[slice]:
    return (slice(start, start + BLOCK) for start in range(0, count, BLOCK))


def _kernel(points: Array, landmarks: Array, scale: float) -> Array:
    """k(x, x'), [n, m]."""
    return np.exp(-_squared_distances(points, landmarks) / scale)


def _squared_distances(points: Array, others: Array) -> Array:
    """|x - x'|², [n, m]."""
    squares = (points**2).sum(1)[:, None] + (others**2).sum(1)
    return np.maximum(squares - 2 * points @ others.T, 0)
