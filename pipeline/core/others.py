"""What the other rows say of a row: kernel ridge regression on what is believed of them, the row itself left out.

Rows are points x in a space (features of a model, or inputs), each with a belief q(y), a distribution over the labels.
The regression of q on the points, with the kernel

    k(x, x') = exp(-|x - x'|² / s),   s the median squared distance between landmarks

and a ridge l, is taken in the Nyström features φ(x) = E^(-1/2) Uᵀ k(L, x) of m landmarks L, some of the
rows, with k(L, L) = U E Uᵀ. Its prediction for row i without row i needs no second regression: with fitted p_i and
leverage h_i = φ_iᵀ (Φᵀ Φ + l)⁻¹ φ_i (+ 1/N for the mean),

    r_i = (p_i - h_i q_i) / (1 - h_i)

so that a row's own label, whatever a model knows by heart, has no part in what is said of it. Probabilities are
softmax(t r); l, of seven, and t make the loss on clean rows least, which the regression predicts as it does a row left
out.

Time N (m D + m²), memory beside the points m (m + M) and a block. Letters: N rows, M clean rows, C classes, D numbers
of a point. Sources: Nyström features, Williams and Seeger, NIPS 2000; leaving out in closed form, Allen 1974 (PRESS).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.core.calibration import loss_of, softmax, temperature

Array = np.ndarray[Any, Any]

RIDGES = tuple(10.0**power for power in (-3, -2.5, -2, -1.5, -1, -0.5, 0))
"""As shares of the largest eigenvalue of Φᵀ Φ."""
BLOCK = 4096
"""Rows at a time. Fixed, so that sums are taken in the same order whatever memory there is."""
SMALLEST = 1e-8
"""Share of the largest eigenvalue of k(L, L) below which a direction is left out."""
ALONE = 1e-9
"""1 - h_i of a row that no other row says anything of: it has the mean belief."""
FACTORS = 400.0
"""t is at most this: beliefs spread over many labels differ by little."""


class Points(Protocol):
    """Points [N, D], an array or read as they are asked for."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, rows: Any) -> Array:
        """Those at a slice or at positions, [n, D]."""


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


def kernel_of(points: Points, chosen: Array) -> Kernel | None:
    """The kernel of points [N, D] with those at `chosen` as landmarks; None: these are at one place, or not finite."""
    landmarks = points[chosen].astype(np.float64)
    if not np.isfinite(landmarks).all():
        return None
    apart = _squared_distances(landmarks, landmarks)[np.triu_indices(len(landmarks), 1)]
    apart = apart[apart > 0]
    if not len(apart) or not np.isfinite(apart).all():
        return None
    scale = float(np.median(apart))
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


def others_say(
    points: Points, beliefs: Array, clean: Points, labels: Array, kernel: Kernel
) -> tuple[Array, Array] | None:
    """What the other rows say of each train row, [N, C], and all of them of clean rows, [M, C]; rows sum to 1.

    None: not all points are finite, or the kernel tells none of them from the others.

    Args:
        points: train rows, [N, D].
        beliefs: q, [N, C].
        clean: clean rows, [M, D].
        labels: of these, [M].
        kernel: of the points.
    """
    found = _regression(points, beliefs, kernel)
    if found is None:
        return None
    turned = np.concatenate([_turned(clean[cut], kernel, found) for cut in _cuts(len(labels))])
    if not np.isfinite(turned).all() or not found.values[-1] > 0:
        return None
    trials = []
    for ridge in np.array(RIDGES) * found.values[-1]:
        said = turned @ (found.products / (found.values + ridge)[:, None]) + found.level
        factor = temperature(said, labels, FACTORS)
        trials.append((loss_of(factor * said, labels), ridge, factor))
    _, ridge, factor = min(trials)
    of_train = [softmax(factor * said) for said in _left_out(points, beliefs, kernel, found, ridge)]
    of_clean = turned @ (found.products / (found.values + ridge)[:, None]) + found.level
    return np.concatenate(of_train), softmax(factor * of_clean)


def _turned(points: Array, kernel: Kernel, found: Regression) -> Array:
    """Centred φ of points [n, D] in the eigenvectors of Φᵀ Φ, [n, r]."""
    return np.asarray((kernel.features(points.astype(np.float64)) - found.middle) @ found.vectors)


def _left_out(points: Points, beliefs: Array, kernel: Kernel, found: Regression, ridge: float) -> Iterator[Array]:
    """r of the train rows, a block at a time, [n, C]."""
    inverse = 1 / (found.values + ridge)
    for cut in _cuts(len(points)):
        turned = _turned(points[cut], kernel, found)
        fitted = (turned * inverse) @ found.products
        leverage = (turned**2 @ inverse + 1 / len(points))[:, None]
        rest = 1 - leverage
        away = np.divide(fitted - leverage * (beliefs[cut] - found.level), rest, where=rest > ALONE, out=0 * fitted)
        yield away + found.level


def _regression(points: Points, beliefs: Array, kernel: Kernel) -> Regression | None:
    """In one pass over the rows; None: not all of them are finite."""
    width, count = kernel.turn.shape[1], len(points)
    squares, products, sums = np.zeros((width, width)), np.zeros((width, beliefs.shape[1])), np.zeros(width)
    level = beliefs.mean(0)
    for cut in _cuts(count):
        phi = kernel.features(points[cut].astype(np.float64))
        squares += phi.T @ phi
        products += phi.T @ (beliefs[cut] - level)  # of which a constant in φ takes nothing
        sums += phi.sum(0)
    if not np.isfinite(sums).all():
        return None
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
