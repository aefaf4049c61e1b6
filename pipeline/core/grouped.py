"""How well retrieval finds the train rows of a query's own group: its author, its style, its class. numpy only.

For each query, the rows of its own group are the positives, and scores rank all n train rows:

* AUC: the chance that a row of the group stands above another one.
* recall: the share of the group among as many best rows as the group has (DataInf: Kwon et al. 2024, arXiv 2310.00902).
* share of the best k: of the k best rows, those of the group (detection rate: Lin et al. 2024, arXiv 2412.08637).

By chance these are 1/2, and twice the group's share of all rows. Letters: q queries, n train rows, R rows of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core.agreement import auc

Array = np.ndarray[Any, Any]

BEST = (5, 10)
"""k of the shares of the best."""


def judged(scores: Array, own: Array) -> dict[str, Array]:
    """The measures of each query, [q] each; NaN where it has no row of its group, or none of another.

    Args:
        scores: [q, n]; larger where a row is to come first. Among equals the first comes first.
        own: whether a row is of the query's group, [q, n] bool.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(own, order, 1)
    sizes = own.sum(1)
    both = (sizes > 0) & (sizes < own.shape[1])
    found = {
        "auc": [auc(*pair) for pair in zip(scores, own, strict=True)],
        "recall": [row[:size].mean() if size else np.nan for row, size in zip(ranked, sizes, strict=True)],
        **{f"share of the best {k}": ranked[:, :k].mean(1) for k in BEST},
    }
    return {name: np.where(both, np.asarray(values, float), np.nan) for name, values in found.items()}


def by_chance(own: Array) -> dict[str, Array]:
    """What any order without knowledge gets of each query on average, [q] each."""
    share = own.mean(1)
    return {
        "auc": np.full(len(own), 0.5),
        "recall": share,
        **{f"share of the best {k}": share for k in BEST},
    }


def same_group(queries: Sequence[str], rows: Sequence[str]) -> Array:
    """Whether query and row are of one group, [q, n] bool."""
    return np.asarray(queries, object)[:, None] == np.asarray(rows, object)[None, :]
