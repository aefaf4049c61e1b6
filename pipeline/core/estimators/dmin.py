"""DMin (Lin, Lao, Zhao, CVPR 2026 Findings, arXiv 2412.08637): cosines of compressed gradients.

    pairs   g_q^T g / (|g_q| |g|)

The paper normalises the gradient of each diffusion timestep and adds the cosines up, which `gradients.parts: separate`
and `gradients.normalise: part` store: g is then a code a timestep, side by side. A row of one loss has one part.
Lengths are those of the codes, so that the score is an exact cosine of codes. With `projection.method: dmin` the
compression is the paper's; with `index.factory: HNSW16` the search is, too. At `trained` or `flat`. Rows: the mean
over validation rows. Signed, positive helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows, Stores, unit


@dataclass(frozen=True)
class DMin(PairEstimator):
    """Products of rows of length 1."""

    checkpoint: str

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The mean of the validation rows."""
        return cls(np.zeros(0), at[0]).asked_by(stores, at)

    def ask(self, queries: Rows) -> Array:
        """g / |g|, [q, K]."""
        return unit(queries.codes(self.checkpoint))

    def features(self, rows: Rows) -> Array:
        """g / |g|, [n, K]."""
        return unit(rows.codes(self.checkpoint))
