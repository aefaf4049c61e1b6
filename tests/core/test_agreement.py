"""Measures of agreement against scikit-learn and scipy, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from pipeline.core.agreement import auc, average_precision, ranks, recall_after, recall_at_k, spearman

SCORES = st.lists(st.integers(-4, 4) | st.floats(-3, 3), min_size=2, max_size=40)
"""Many ties among the integers."""


def labelled(scores: list[float], random) -> tuple[np.ndarray, np.ndarray]:
    positive = np.array([random.random() < 0.4 for _ in scores])
    return np.array(scores, float), positive


@given(SCORES)
def test_ranks_are_those_of_scipy(scores):
    np.testing.assert_allclose(ranks(np.array(scores, float)), stats.rankdata(scores), rtol=1e-12)


@given(SCORES, st.randoms())
def test_auc_is_that_of_scikit_learn(scores, random):
    values, positive = labelled(scores, random)
    assume(positive.any() and not positive.all())
    assert auc(values, positive) == pytest.approx(metrics.roc_auc_score(positive, values), abs=1e-12)


@given(SCORES, st.randoms())
def test_the_area_under_recall_over_the_rows_is_that_of_the_roc_curve_rescaled(scores, random):
    values, positive = labelled(scores, random)
    assume(positive.any() and not positive.all())
    recall = recall_after(values, positive, np.arange(len(values) + 1))
    share = positive.mean()
    area = np.trapezoid(recall) / len(values)
    assert area == pytest.approx(share / 2 + (1 - share) * metrics.roc_auc_score(positive, values), abs=1e-12)
    assert recall[0] == 0 and recall[-1] == 1


@given(SCORES, st.randoms())
def test_average_precision_is_that_of_scikit_learn(scores, random):
    values, positive = labelled(scores, random)
    assume(positive.any())
    assert average_precision(values, positive) == pytest.approx(
        metrics.average_precision_score(positive, values), abs=1e-12
    )


@given(SCORES, st.randoms())
def test_spearman_is_that_of_scipy(scores, random):
    first, second = np.array(scores, float), np.array([random.choice(scores) for _ in scores], float)
    assume(len(set(first)) > 1 and len(set(second)) > 1)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


def test_infinite_scores_tie_with_each_other():
    scores, positive = np.array([np.inf, np.inf, 1.0, -np.inf, -np.inf]), np.array([True, False, True, False, True])
    finite = np.array([9.0, 9.0, 1.0, -9.0, -9.0])
    assert average_precision(scores, positive) == average_precision(finite, positive)
    assert auc(scores, positive) == auc(finite, positive)


def test_what_is_undefined_is_nan():
    scores = np.array([1.0, 2.0])
    assert all(np.isnan(auc(scores, np.full(2, value))) for value in (True, False))
    assert np.isnan(average_precision(scores, np.zeros(2, bool)))
    assert np.isnan(spearman(np.ones(2), scores)) and np.isnan(spearman(scores, np.ones(2)))
    assert np.isnan(recall_at_k(np.zeros((0, 3)), np.zeros((0, 3))))


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_recall_is_the_share_of_the_exact_neighbours(queries, k, seed):
    rng = np.random.default_rng(seed)
    found, exact = (np.array([rng.permutation(8)[:k] for _ in range(queries)]) for _ in range(2))
    expected = sum(i in row for row, wanted in zip(found, exact, strict=True) for i in wanted) / (queries * k)
    assert recall_at_k(found, exact) == pytest.approx(expected)
    assert recall_at_k(np.where(found < 4, found, -1), exact) <= expected


def test_perfect_and_reversed_orders():
    scores, positive = np.arange(10.0), np.arange(10) >= 6
    assert auc(scores, positive) == average_precision(scores, positive) == spearman(scores, 2 * scores) == 1
    assert auc(-scores, positive) == 0 and spearman(scores, -scores) == pytest.approx(-1)
