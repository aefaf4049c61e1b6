"""Memorisation and influence by subset retraining, against loops over models."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.memorisation import influence, memorisation


@pytest.fixture
def runs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks [60, 12] and correctness on 12 train and 7 test rows; row 3 is right only where it was trained on."""
    stream = np.random.default_rng(5)
    kept = stream.random((60, 12)) < 0.7
    train, test = stream.integers(0, 2, (60, 12)), stream.integers(0, 2, (60, 7))
    train[:, 3] = kept[:, 3]
    return kept, train, test


def test_memorisation_is_the_difference_of_two_means_over_models(runs):
    kept, train, _ = runs
    expected = [train[kept[:, i], i].mean() - train[~kept[:, i], i].mean() for i in range(12)]
    np.testing.assert_allclose(memorisation(kept, train).value, expected, rtol=0, atol=1e-15)
    assert memorisation(kept, train).value[3] == 1


def test_influence_is_the_same_difference_at_test_rows(runs):
    kept, _, test = runs
    expected = [[test[kept[:, i], j].mean() - test[~kept[:, i], j].mean() for i in range(12)] for j in range(7)]
    np.testing.assert_allclose(influence(kept, test).value, expected, rtol=0, atol=1e-15)


def test_the_influence_of_a_row_on_itself_is_its_memorisation_to_the_last_bit(runs):
    kept, train, _ = runs
    pairs, own = influence(kept, train), memorisation(kept, train)
    assert np.array_equal(np.diagonal(pairs.value), own.value)
    assert np.array_equal(np.diagonal(pairs.error), own.error)


def test_a_row_that_was_always_or_never_held_is_unknown(runs):
    kept, train, test = runs
    kept[:, 0], kept[:, 1] = True, False
    assert np.isnan(memorisation(kept, train).value[:2]).all()
    assert np.isnan(influence(kept, test).error[:, :2]).all()
    assert np.isfinite(memorisation(kept, train).value[2:]).all()


def test_the_standard_error_is_that_of_repeated_experiments():
    stream = np.random.default_rng(1)
    kept = stream.random((300, 1)) < 0.7
    values, errors = [], []
    for _ in range(400):
        right = np.where(kept, stream.random((300, 1)) < 0.9, stream.random((300, 1)) < 0.6)
        found = memorisation(kept, right)
        values.append(found.value[0])
        errors.append(found.error[0])
    assert np.mean(values) == pytest.approx(0.3, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def test_models_that_all_agree_still_have_an_error():
    kept = np.arange(40)[:, None] % 2 == 0
    assert memorisation(kept, np.ones((40, 1))).error[0] > 0
