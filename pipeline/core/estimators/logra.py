"""LoGra (Choe et al. 2024, arXiv 2405.13954): influence in Kronecker-factored low-rank gradients.

    pairs   g_q^T (F + lambda)^-1 g,    F = (1/n) sum g g^T over train rows, lambda = .1 x tr(F) / K

with codes of the projection `kronecker` (random factors) or `kronecker_pca`, for each parameter apart where codes keep
parameters apart (codec float32), else for all together. At `trained`. Rows: the mean over validation rows. Signed,
positive helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, Outer, Rows, Stores
from pipeline.core.estimators.blockwise import Blockwise

DAMPING = 0.1
"""lambda over the mean eigenvalue, as in the authors' code."""


@dataclass(frozen=True)
class Block:
    """Some coordinates at a checkpoint, [n, k]."""

    checkpoint: str
    block: slice

    def __call__(self, rows: Rows) -> Array:
        """Of some rows."""
        return rows.codes(self.checkpoint)[:, self.block]


@dataclass(frozen=True)
class LoGra(Blockwise):
    """Inner products under the damped inverse, block by block."""

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The inverses, and the mean of the validation rows."""
        inverses = []
        for block in stores.blocks(at[0]):
            total, count = stores.total("train", at, Outer(Block(at[0], block)))
            damping = DAMPING * float(np.trace(total)) / count / len(total) or 1.0
            inverses.append((block, np.linalg.inv(total / count + damping * np.eye(len(total)))))
        return cls(np.zeros(0), at[0], tuple(inverses)).asked_by(stores, at)
