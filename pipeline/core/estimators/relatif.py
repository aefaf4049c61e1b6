"""RelatIF (Barshan, Brunet, Dziugaite, AISTATS 2020, arXiv 2003.11630): influence relative to a row's global effect.

    theta-RelatIF   g_q^T H^-1 g / |H^-1 g|

so that a row which moves the model far does not matter for every query. At `trained`, in the space of codes. Signed,
positive helped (the paper's sign reversed).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.estimators.base import Array, Rows, divided
from pipeline.core.estimators.classical import Classical


@dataclass(frozen=True)
class RelatIF(Classical):
    """Classical influence whose rows are divided by |H^-1 g|."""

    def features(self, rows: Rows) -> Array:
        """g / |H^-1 g|, [n, K]."""
        codes = rows.codes(self.checkpoint)
        lengths = np.sqrt(self.preconditioner.forms(codes).squared_norm)
        return codes * divided(np.ones(len(codes)), lengths)[:, None]
