"""TRAK (Park, Georgiev, Ilyas, Leclerc, Madry, ICML 2023, arXiv 2303.14186): a linear model of the margin, over models.

With f = log p_y - log(1 - p_y) the margin, phi = P grad f its compressed gradient and Q = 1 - p_y,

    pairs   mean over models m of  phi_q^T (Phi^T Phi + lambda)^-1 phi,  times the mean over models of Q of the row

No other capture is needed: grad loss = -(1 - p_y) grad f exactly, so phi = -g / (1 - p_y) from stored codes and losses,
with 1 - p_y = -expm1(-loss). Where float32 no longer tells the loss from zero, 1 - p_y is taken as 6e-8. For losses
that are not those of a classification f = -loss and Q = 1. lambda is relative, damping x tr(Phi^T Phi) / n: the paper
has none, which needs K < n. Models are `trained` and those of `checkpoints.seeds`, each with its own projection; all
have seen all rows. Rows: the mean over validation rows. Signed, positive helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.curvature import spectrum_of_sum
from pipeline.core.estimators.base import Array, Codes, Outer, PairEstimator, Rows, Stores
from pipeline.core.preconditioner import Preconditioner

LEAST = 2.0**-24
"""Smallest 1 - p_y: half the spacing of float32 below 1."""


@dataclass(frozen=True)
class Doubt:
    """1 - p_y of each row at a checkpoint, [n], from the loss in nats; 1 where no class is told."""

    checkpoint: str
    classes: bool

    def __call__(self, rows: Rows) -> Array:
        """Of some rows."""
        losses = rows.column(self.checkpoint, "loss")
        return np.maximum(-np.expm1(-losses), LEAST) if self.classes else np.ones(len(losses))


@dataclass(frozen=True)
class TRAK(PairEstimator):
    """Products of what stands side by side for all models; signs of phi cancel."""

    checkpoints: tuple[str, ...]
    kernels: tuple[Preconditioner, ...]
    classes: bool

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The kernels of all models, and the mean of the validation rows."""
        classes, kernels = stores.classes(), []
        for each in at:
            total, count = stores.total("train", [each], Outer(Codes(each, Doubt(each, classes))))
            mean = Preconditioner.fit(spectrum_of_sum(total, count), stores.damping)
            kernels.append(mean)
        return cls(np.zeros(0), tuple(at), tuple(kernels), classes).asked_by(stores, at)

    def ask(self, queries: Rows) -> Array:
        """(Phi^T Phi / n + lambda)^-1 phi over the number of models, [q, K summed over models]."""
        pairs = zip(self.checkpoints, self.kernels, strict=True)
        solved = [kernel.solve(self._phi(queries, each)) / kernel.spectrum.rows for each, kernel in pairs]
        return np.concatenate(solved, 1) / len(self.checkpoints)

    def features(self, rows: Rows) -> Array:
        """phi times the mean of Q, [n, K summed over models]."""
        doubt = np.mean([Doubt(each, self.classes)(rows) for each in self.checkpoints], 0)
        return np.concatenate([self._phi(rows, each) for each in self.checkpoints], 1) * doubt[:, None]

    def _phi(self, rows: Rows, checkpoint: str) -> Array:
        return Codes(checkpoint, Doubt(checkpoint, self.classes))(rows)
