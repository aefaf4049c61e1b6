"""What clean rows say about neighbours and the trained model."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.trust import REPEATING, honesty, learnt, mixed, with_neighbours

PRIOR = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
OTHER = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])


def test_mixtures_are_geometric_means() -> None:
    expected = np.sqrt(PRIOR * OTHER)
    assert mixed(PRIOR, OTHER, 0.5) == pytest.approx(expected / expected.sum(1, keepdims=True))
    assert mixed(PRIOR, OTHER, 0.0) is PRIOR
    assert mixed(PRIOR, OTHER, 1.0) == pytest.approx(OTHER)


def test_no_exponent_leaves_the_prior() -> None:
    assert with_neighbours(PRIOR, OTHER, 0.0) == pytest.approx(PRIOR)
    assert with_neighbours(PRIOR, OTHER, 1.0) == pytest.approx(
        PRIOR * OTHER / (PRIOR * OTHER).sum(1, keepdims=True), rel=1e-5
    )


@pytest.mark.parametrize(("agreeing", "errors", "expected"), [(1.0, 20, 0.0), (0.79, 20, 1.0), (0.895, 20, 0.5)])
def test_honesty_is_the_share_of_its_errors(agreeing: float, errors: int, expected: float) -> None:
    assert honesty(agreeing, errors, 98) == pytest.approx(expected)


def test_clean_rows_take_the_better_source_and_honesty_scales_it() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 900)
    good = (np.eye(3)[labels] * 2 + draw.random((900, 3))) / 3.5
    bad = np.full((900, 3), 1 / 3)
    good /= good.sum(1, keepdims=True)
    errors = (good.argmax(1) != labels).mean()
    honest = learnt(bad, good, bad, labels, agreeing=1 - errors - 0.01)
    assert (honest.trained, honest.honesty) == (1.0, 1.0)
    heart = learnt(bad, good, bad, labels, agreeing=1.0)
    assert (heart.trained, heart.neighbours, heart.honesty) == (0.0, 1.0, 0.0)
    fooled = learnt(good, bad, np.roll(good, 1, 1), labels, agreeing=0.0)
    assert (fooled.neighbours, fooled.trained) == (0.0, 0.0)


def test_without_neighbours_their_exponent_says_nothing() -> None:
    assert learnt(PRIOR, OTHER, None, np.array([0, 1, 1]), agreeing=0.5).neighbours == 1.0


def test_folds_that_repeat_the_labels_count_by_their_honesty() -> None:
    labels = np.array([0, 1, 1])
    assert learnt(PRIOR, OTHER, None, labels, agreeing=1.0, folds=REPEATING / 2).folds == REPEATING / 2
    assert learnt(PRIOR, OTHER, None, labels, agreeing=1.0, folds=REPEATING).folds == 1.0
