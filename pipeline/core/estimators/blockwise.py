"""Pairs under a matrix for each parameter apart: what DataInf and LoGra have in common. numpy only.

    pairs   sum over blocks b of g_qb^T M_b g_b

A block is a parameter's coordinates where codes keep parameters apart, else all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.core.estimators.base import Array, PairEstimator, Rows


@dataclass(frozen=True)
class Blockwise(PairEstimator):
    """Inner products under one matrix a block, [k, k] each."""

    checkpoint: str
    matrices: tuple[tuple[slice, Array], ...]

    def ask(self, queries: Rows) -> Array:
        """M g, [q, K]."""
        codes = queries.codes(self.checkpoint)
        return np.concatenate([codes[:, block] @ matrix for block, matrix in self.matrices], 1)

    def features(self, rows: Rows) -> Array:
        """g, [n, K]."""
        return rows.codes(self.checkpoint)
