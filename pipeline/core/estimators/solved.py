"""Influence of whole gradients, P numbers, by what needs the model: `pipeline.core.solvers`; nothing is compressed.

    rows    g_val^T (C + lambda)^-1 g at `trained`, g_val the mean over validation rows, C of the train rows

solved once by CG, LiSSA, K-FAC or EK-FAC (stage `solve`): classical influence, signed as `classical`. FVM, unsigned:

    rows    g^T (C + lambda)^-1 g at `flat`, C of the validation rows by K-FAC or EK-FAC

Likewise influence through the joint training of a generator and a discriminator (stage `trace`;
`pipeline.core.unrolled`, `pipeline.core.fixed_point`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores


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
class ThroughSteps(Solved):
    """Backward through the steps of a joint training."""

    name = "gan_itd"


@dataclass(frozen=True)
class AtRest(Solved):
    """By a Neumann series where both players rest."""

    name = "gan_aid"
