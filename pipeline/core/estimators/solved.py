"""Influence of whole gradients, P numbers, by what needs the model: `pipeline.core.solvers`; nothing is compressed.

    rows    g_val^T (C + lambda)^-1 g at `trained`, g_val the mean over validation rows, C of the train rows

solved once by CG, LiSSA, K-FAC or EK-FAC (stage `solve`): classical influence, signed as `classical`. FVM, unsigned:

    rows    S = g^T H^-1 g at `flat`, H = C + lambda, C of the validation rows by K-FAC or EK-FAC
    rows    W = g^T H^-1 C H^-1 g, the mean of the single-point form over the validation rows

Pairs, by K-FAC or EK-FAC, which solve for every query in closed form:

    pairs   g_q^T (C + lambda)^-1 g at `trained`, C of the train rows     influence, signed
    pairs   (g_q^T H^-1 g)^2 at `flat`                                    FVM, single point, unsigned

Likewise influence through the joint training of a generator and a discriminator (stage `trace`;
`pipeline.core.unrolled`, `pipeline.core.fixed_point`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pipeline.core.estimators.base import Array, Estimator, PairEstimator, Rows, Stores


@dataclass(frozen=True)
class Solved(Estimator):
    """Scores of all train rows, by position, [N]."""

    scores: Array
    name: ClassVar[str]

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """As the stage left them."""
        return cls(stores.solved(cls.name))

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        found: Array = self.scores[rows.positions]
        return found


@dataclass(frozen=True)
class ByCG(Solved):
    """By conjugate gradients."""

    name = "classical_cg"


@dataclass(frozen=True)
class ByLiSSA(Solved):
    """By a Neumann series over batches."""

    name = "classical_lissa"


@dataclass(frozen=True)
class ByKFAC(Solved):
    """By K-FAC."""

    name = "classical_kfac"


@dataclass(frozen=True)
class ByEKFAC(Solved):
    """By EK-FAC."""

    name = "classical_ekfac"


@dataclass(frozen=True)
class SetLevelByKFAC(Solved):
    """S by K-FAC."""

    name = "s_kfac"


@dataclass(frozen=True)
class SetLevelByEKFAC(Solved):
    """S by EK-FAC."""

    name = "s_ekfac"


@dataclass(frozen=True)
class MeanOfPairsByKFAC(Solved):
    """W by K-FAC."""

    name = "w_kfac"


@dataclass(frozen=True)
class MeanOfPairsByEKFAC(Solved):
    """W by EK-FAC."""

    name = "w_ekfac"


@dataclass(frozen=True)
class SolvedPairs(PairEstimator):
    """Scores of all query and train rows, [N, Q] by position: a query asks with its own column."""

    found: Array
    name: ClassVar[str]

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """As the stage left them."""
        found = stores.solved(cls.name)
        return cls(np.full(found.shape[1], 1 / max(1, found.shape[1])), found)

    def ask(self, queries: Rows) -> Array:
        """Which column, [q, Q]."""
        return np.eye(self.found.shape[1])[queries.positions]

    def features(self, rows: Rows) -> Array:
        """Products with all queries, [n, Q]; those that do not count are never asked for."""
        return np.nan_to_num(self.found[rows.positions].astype(np.float64))

    def rows(self, rows: Rows) -> Array:
        """Mean over the query rows, [n]."""
        products = self.features(rows)
        return np.asarray((np.square(products) if self.squared else products) @ self.mean)


@dataclass(frozen=True)
class InfluenceByKFAC(SolvedPairs):
    """Classical influence by K-FAC."""

    name = "influence_kfac"


@dataclass(frozen=True)
class InfluenceByEKFAC(SolvedPairs):
    """Classical influence by EK-FAC."""

    name = "influence_ekfac"


@dataclass(frozen=True)
class SinglePointByKFAC(SolvedPairs):
    """Its square at `flat`, by K-FAC."""

    name, squared = "fvm_kfac", True


@dataclass(frozen=True)
class SinglePointByEKFAC(SolvedPairs):
    """Its square at `flat`, by EK-FAC."""

    name, squared = "fvm_ekfac", True


@dataclass(frozen=True)
class ThroughSteps(Solved):
    """Backward through the steps of a joint training."""

    name = "gan_itd"


@dataclass(frozen=True)
class AtRest(Solved):
    """By a Neumann series where both players rest."""

    name = "gan_aid"
