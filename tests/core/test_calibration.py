"""One factor on logits, found again after they were multiplied by it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.calibration import loss_of, softmax, temperature


def test_temperature_undoes_what_logits_were_multiplied_by() -> None:
    draw = np.random.default_rng(10)
    logits = draw.normal(size=(20000, 4)) * 2
    labels = np.array([draw.choice(4, p=row) for row in softmax(logits)])
    for factor in (0.3, 1.0, 4.0):
        assert temperature(factor * logits, labels) == pytest.approx(1 / factor, rel=0.05)


def test_the_factor_stays_within_its_bounds() -> None:
    sure = np.array([[1e-3, 0.0], [0.0, 1e-3]])
    assert temperature(sure, np.array([0, 1])) == pytest.approx(20, rel=1e-3)
    assert temperature(sure, np.array([0, 1]), 400.0) == pytest.approx(400, rel=1e-3)
    assert temperature(1e3 * sure, np.array([1, 0])) == pytest.approx(1 / 20, rel=1e-3)


def test_the_loss_is_that_of_the_labels() -> None:
    assert loss_of(np.log(np.array([[0.25, 0.75], [0.5, 0.5]])), np.array([0, 1])) == pytest.approx(np.log(8) / 2)


def test_labels_that_are_next_to_impossible_pull_all_the_same() -> None:
    draw = np.random.default_rng(11)
    labels = draw.integers(0, 3, 200)
    logits = draw.normal(size=(200, 3))
    logits[np.arange(200), np.where(draw.random(200) < 0.3, (labels + 1) % 3, labels)] += 5
    assert temperature(1500 * logits, labels) == pytest.approx(1 / 20, rel=1e-3)
    assert loss_of(1500 * logits, labels) > 1000
