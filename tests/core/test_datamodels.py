"""LDS against scipy's rank correlation, its interval and the ceiling."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from pipeline.core.datamodels import ceiling, correlations, lds


def linear(noise: float, queries: int = 20, rows: int = 50, subsets: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """What summed scores predict, [Q, m], and a response that is linear in the subset but for noise."""
    stream = np.random.default_rng(2)
    scores, masks = stream.normal(size=(queries, rows)), stream.random((subsets, rows)) < 0.5
    predicted = scores @ masks.T
    return predicted, predicted + noise * stream.normal(size=predicted.shape)


def test_correlations_are_spearmans_with_ties():
    predicted, response = linear(5.0)
    predicted = predicted.round()
    expected = [spearmanr(a, b).statistic for a, b in zip(predicted, response, strict=True)]
    np.testing.assert_allclose(correlations(predicted, response), expected, atol=1e-12)


def test_the_interval_covers_the_score_and_narrows_with_subsets():
    few, many = (lds(*linear(5.0, subsets=subsets), seed=0) for subsets in (20, 200))
    for value, low, high in (few, many):
        assert low < value < high
    assert many[2] - many[1] < few[2] - few[1]


def test_a_perfect_prediction_scores_one_and_its_opposite_minus_one():
    predicted, response = linear(0.0)
    assert lds(predicted, response, seed=0)[0] == pytest.approx(1)
    assert lds(-predicted, response, seed=0)[0] == pytest.approx(-1)


def test_a_query_whose_response_is_constant_does_not_count():
    predicted, response = linear(0.0)
    response[0] = 3
    assert np.isnan(correlations(predicted, response)[0])
    assert lds(predicted, response, seed=0)[0] == pytest.approx(1)


def test_the_ceiling_falls_with_the_randomness_of_training():
    predicted, _ = linear(0.0)
    stream = np.random.default_rng(3)
    calm, wild = (
        ceiling(np.stack([predicted + noise * stream.normal(size=predicted.shape) for _ in range(3)]))
        for noise in (0.1, 5.0)
    )
    assert calm > 0.95 > 0.75 > wild > 0.2
    assert np.isnan(ceiling(predicted[None]))
