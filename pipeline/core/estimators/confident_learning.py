"""Confident learning (Northcutt, Jiang, Chuang, JAIR 2021, arXiv 1911.00068), by the library cleanlab.

1 - the quality of the given label, where quality is p(given label) less the mean confidence of that class ("adjusted
self confidence"). The probabilities should not come from a model that learnt the labels: they are those at `flat`,
which are the losses under all labels. Unsigned; needs `pip install 'lowland[baselines]'`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from pipeline.core.estimators.base import Array, Estimator, Rows, Stores
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class ConfidentLearning(Estimator):
    """Scores of all train rows, by position, [N]; NaN where the probabilities are not known."""

    scores: Array

    @classmethod
    def fit(cls, stores: Stores, at: Sequence[str]) -> Self:
        """The scores of all rows whose probabilities are known.

        Raises:
            ConfigError: cleanlab is not installed.
        """
        try:
            from cleanlab.rank import get_label_quality_scores
        except ImportError as error:
            raise ConfigError(
                "expected the package cleanlab for the estimator confident_learning, got none; pip install "
                "'lowland[baselines]', or take it out of scores.estimators"
            ) from error
        labels = stores.labels()
        positions, logs = stores.log_probabilities(at[0])
        scores = np.full(len(labels), np.nan)
        probabilities = np.exp(logs - np.logaddexp.reduce(logs, axis=1, keepdims=True))
        scores[positions] = 1 - get_label_quality_scores(labels[positions], probabilities, adjust_pred_probs=True)
        return cls(scores)

    def rows(self, rows: Rows) -> Array:
        """[n]."""
        found: Array = self.scores[rows.positions]
        return found
