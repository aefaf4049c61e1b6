"""The estimators against loops, relabelling, and order with ties and NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SCORES
from pipeline.core.influence import SIGNED, likeliest, likeliest_other, order, pairwise, relabel, unit


@pytest.mark.parametrize("score", SIGNED)
def test_pairs_are_what_a_loop_says(rng, score):
    queries, rows = rng.normal(size=(3, 5)), rng.normal(size=(4, 5)).astype(np.float32)
    expected = np.zeros((3, 4))
    for i, u in enumerate(queries):
        for j, g in enumerate(rows.astype(np.float64)):
            product = sum(a * b for a, b in zip(u, g, strict=True))
            scale = np.sqrt(sum(u**2)) * np.sqrt(sum(g**2))
            expected[i, j] = {"influence": product, "fvm": product**2, "cosine": product / scale}[score]
    np.testing.assert_allclose(pairwise(score, queries, rows), expected, rtol=1e-12)
    assert pairwise(score, queries, rows).dtype == np.float64


def test_every_score_of_the_configuration_has_a_sign():
    assert set(SIGNED) == set(SCORES)


def test_products_are_not_taken_in_float32():
    u, g = np.array([[1e-30]], np.float32), np.array([[1e-30]], np.float32)
    assert pairwise("influence", u, g)[0, 0] == pytest.approx(1e-60, rel=1e-6)
    assert pairwise("fvm", u, g)[0, 0] == pytest.approx(1e-120, rel=1e-6)


def test_unit_rows_have_length_one_and_zero_stays_zero(rng):
    rows = rng.normal(size=(4, 3)) * 10.0 ** np.array([[-150], [0], [30], [150]])
    rows[1] = 0
    lengths = np.linalg.norm(unit(rows), axis=1)
    np.testing.assert_allclose(lengths, [1, 0, 1, 1], rtol=1e-12)
    assert pairwise("cosine", rows, rows)[1].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(np.diag(pairwise("cosine", rows, rows)), [1, 0, 1, 1], rtol=1e-12)


def test_cosine_does_not_depend_on_length_and_turns_with_sign(rng):
    queries, rows = rng.normal(size=(3, 5)), rng.normal(size=(4, 5))
    np.testing.assert_allclose(
        pairwise("cosine", 7 * queries, 0.1 * rows), pairwise("cosine", queries, rows), rtol=1e-12
    )
    np.testing.assert_allclose(pairwise("cosine", -queries, rows), -pairwise("cosine", queries, rows), rtol=1e-12)


def test_relabelling_takes_the_label_that_disturbs_least():
    scores = np.array([[3.0, 1.0, 2.0], [0.5, 4.0, 0.6], [2.0, 2.0, 9.0]])
    suggested, margin = relabel(scores, np.array([0, 0, 1]))
    assert suggested.tolist() == [1, 0, 0] and margin.tolist() == [2.0, 0.0, 0.0]


@given(st.lists(st.sampled_from([0.0, -1.0, 2.5, np.inf, -np.inf, np.nan]), max_size=12), st.booleans(), st.randoms())
def test_order_is_by_score_then_id_with_nan_last(scores, bottom, random):
    ids = random.sample(range(100), len(scores))
    found = order(np.array(scores), np.array(ids, int), bottom).tolist()

    def key(i):
        missing = scores[i] != scores[i]
        return (missing, 0 if missing else (scores[i] if bottom else -scores[i]), ids[i])

    assert found == sorted(range(len(scores)), key=key)


def test_order_does_not_depend_on_the_order_of_rows(rng):
    scores, ids = rng.integers(0, 4, size=50).astype(float), rng.permutation(50)
    turn = rng.permutation(50)
    assert np.array_equal(ids[order(scores, ids)], ids[turn][order(scores[turn], ids[turn])])


def test_the_likeliest_other_label_is_never_the_given_one() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0], [np.nan] * 3])
    assert likeliest_other(probabilities, np.array([0, 2, 2, 1])).tolist() == [1, 1, 0, -1]
    assert probabilities[0, 0] == 0.7


def test_labels_are_as_likely_by_logarithms_however_small() -> None:
    logs = np.array([[0.0, -900.0, -800.0], [-1.0, -np.inf, -2.0], [0.0, np.nan, -1.0]], np.float32)
    assert likeliest(logs).tolist() == [0, 0, -1]
    assert likeliest_other(logs, np.array([0, 0, 0])).tolist() == [2, 2, -1]
