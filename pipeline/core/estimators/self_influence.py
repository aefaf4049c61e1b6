"""Self-influence (Koh and Liang 2017; Feldman and Zhang 2020 for what it measures): g^T (C + lambda)^-1 g at `trained`.

The influence of a row on its own loss, C the curvature of the train rows: rows that are known by heart have a large
one. Unsigned, in the space of codes.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.estimators.fvm import SetLevel


@dataclass(frozen=True)
class SelfInfluence(SetLevel):
    """The quadratic form of S, at another checkpoint and with another curvature."""
