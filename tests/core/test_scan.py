"""Exact best rows from rounded scores: products against float64 of the decoded rows, and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.codec import ENCODINGS, Codec, fit_codec
from pipeline.core.influence import order, unit
from pipeline.core.scan import PIECE_ROWS, Contenders, contenders, margin, products


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("dimension", [1, 31, 32, 33, 200])
@pytest.mark.parametrize("count", [1, PIECE_ROWS + 3])
def test_products_are_those_of_decoded_rows_within_the_margin(rng, encoding, dimension, count):
    rows = (
        rng.normal(size=(count, dimension)) * np.geomspace(1, 1e-3, dimension) * 10.0 ** rng.uniform(-9, 9, (count, 1))
    )
    codec = fit_codec(encoding, rows.astype(np.float32))
    stored = codec.encode(rows)
    queries = unit(rng.normal(size=(5, dimension)) / np.geomspace(1, 1e-3, dimension))
    decoded = codec.decode(stored).astype(np.float64)
    off = np.abs(products(codec, stored, queries.astype(np.float32)) - queries @ decoded.T)
    bound = margin(dimension) * np.linalg.norm(decoded, axis=1)
    assert (off <= bound).all()
    assert off.max() > 0 or dimension == 1


def test_products_of_no_rows_are_none():
    codec = Codec("int8", np.ones(40, np.float32))
    assert products(codec, codec.encode(np.zeros((0, 40))), np.ones((3, 40), np.float32)).shape == (3, 0)


def brute(scores, ids, k):
    return ids[order(scores, ids)[:k]]


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 8), st.integers(0, 2**32 - 1), st.booleans()
)
def test_no_row_of_the_best_is_ever_left_out(values, k, seed, exact):
    """True scores within stated errors of the rounded ones, with many ties, in two parts that are joined."""
    rng = np.random.default_rng(seed)
    truth = np.array(values, float)
    errors = np.zeros(len(truth)) if exact else rng.choice([0.0, 0.3, 1.5], len(truth))
    rounded = truth + errors * rng.uniform(-1, 1, len(truth))
    ids = rng.permutation(len(truth)) * 3
    half = len(truth) // 2
    parts = [
        contenders(rounded[part], errors[part], ids[part], k)
        for part in (slice(half), slice(half, None))
        if len(ids[part])
    ]
    left = parts[0] if len(parts) == 1 else parts[0].joined(parts[1]).best(k)
    assert set(brute(truth, ids, k)) <= set(left.ids)
    assert not exact or len(left.ids) == min(k, len(ids))


def test_what_surely_loses_is_left_out(rng):
    scores = rng.normal(size=1000).astype(np.float32)
    left = contenders(scores, np.full(1000, 1e-6), np.arange(1000), 10)
    assert len(left.ids) == 10


def test_scores_that_overflowed_stay_in():
    scores = np.array([1.0, np.nan, 5.0, 4.0, -np.inf], np.float32)
    assert set(contenders(scores, np.zeros(5), np.arange(5), 1).ids) == {1, 2, 4}


def test_few_rows_all_stay():
    rows = Contenders(np.arange(3), np.arange(3.0), np.arange(3.0))
    assert rows.best(3) is rows


def test_what_may_win_within_the_errors_stays_in():
    scores = np.array([1.0, 0.9, 0.7, 0.2], np.float32)
    assert contenders(scores, np.array([0.1, 0.1, 0.1, 0.1]), np.arange(4), 1).ids.tolist() == [0, 1]
    assert contenders(scores, np.array([0.1, 0.0, 0.3, 0.1]), np.arange(4), 1).ids.tolist() == [0, 2]
