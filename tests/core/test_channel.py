"""The channel by clean rows: found where it is there, near the even one where it cannot be known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.core import channel as module
from pipeline.core.calibration import softmax
from pipeline.core.channel import alike, even, fitted, posterior_of, symmetric

CHANNEL = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.05, 0.05, 0.9]])
OFF = ~np.eye(3, dtype=bool)


def made(count: int, seed: int, channel: Any = CHANNEL, sharpness: float = 3.0) -> tuple[Any, Any, Any]:
    """Calibrated probabilities [n, 3], and true and given labels drawn from them and from a channel."""
    draw = np.random.default_rng(seed)
    model = softmax(sharpness * draw.normal(size=(count, 3)))
    truth = np.array([draw.choice(3, p=row) for row in model])
    given = np.array([draw.choice(3, p=channel[label]) for label in truth])
    return model, truth, given


def test_the_posterior_is_bayes_rule_written_out() -> None:
    model, _, given = made(40, 0)
    found = posterior_of(model, given, CHANNEL)
    for row in range(40):
        joint = [model[row, true] * CHANNEL[true, given[row]] for true in range(3)]
        assert found[row] == pytest.approx(np.array(joint) / sum(joint))


def test_a_factor_on_a_column_changes_nothing() -> None:
    model, _, given = made(40, 1)
    assert posterior_of(model, given, CHANNEL * [3.0, 0.2, 1.0]) == pytest.approx(posterior_of(model, given, CHANNEL))


def test_the_channel_that_gave_the_labels_is_found() -> None:
    model, _, given = made(20000, 2)
    clean, labels, _ = made(5000, 3)
    found = fitted(model, given, clean, labels)
    assert found.sum(1) == pytest.approx(np.ones(3))
    assert np.abs(found - CHANNEL).max() < 0.06
    assert np.log(found[1, 2] / found[1, 0]) > 2.5


def test_what_a_model_gets_wrong_on_clean_rows_is_no_noise() -> None:
    model, _, given = made(20000, 4, np.eye(3))
    clean, labels, _ = made(5000, 5)
    swapped = [0, 2, 1]  # the model takes the one for the other
    found = fitted(model[:, swapped], given, clean[:, swapped], labels)
    assert np.abs(found - np.eye(3)).max() < 0.06


def test_few_clean_rows_leave_confusions_alike() -> None:
    small = np.array([[0.97, 0.03, 0.0], [0.0, 0.97, 0.03], [0.03, 0.0, 0.97]])
    model, _, given = made(2000, 6, small, sharpness=2.0)
    spread = []
    for count in (30, 3000):
        clean, labels, _ = made(count, 7, sharpness=2.0)
        spread.append(np.ptp(np.log(fitted(model, given, clean, labels)[OFF])))
    assert spread[0] < 0.5 < 0.8 < spread[1]


def test_rows_alike_say_less_than_independent_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, given = made(2000, 6)
    clean, labels, _ = made(200, 7)
    spread = [np.ptp(np.log(fitted(model, given, clean, labels)[OFF]))]
    for rows in (1, 16):
        monkeypatch.setattr(module, "ROWS_ALIKE", rows)
        spread.append(np.ptp(np.log(fitted(model, given, clean, labels)[OFF])))
    assert 1.02 * spread[2] < spread[0] < 0.98 * spread[1]


def test_the_order_of_train_rows_does_not_matter() -> None:
    model, _, given = made(500, 8)
    clean, labels, _ = made(200, 9)
    order = np.random.default_rng(10).permutation(500)
    assert fitted(model[order], given[order], clean, labels) == pytest.approx(fitted(model, given, clean, labels))


def test_a_class_without_rows_does_no_harm() -> None:
    model, _, given = made(300, 11)
    wide = np.concatenate([model, np.zeros((300, 1))], 1)
    clean, labels, _ = made(100, 12)
    found = fitted(wide, given, np.concatenate([clean, np.zeros((100, 1))], 1), labels)
    assert np.isfinite(found).all() and found.sum(1) == pytest.approx(np.ones(4))


def test_the_symmetric_channel() -> None:
    assert symmetric(0.7, 4).sum(1) == pytest.approx(np.ones(4))
    assert symmetric(0.7, 4)[0].tolist() == pytest.approx([0.7, 0.1, 0.1, 0.1])
    assert symmetric(0.7, 1).tolist() == [[0.7]]


def test_the_even_channel_has_as_many_wrong_labels_for_every_pair_of_classes() -> None:
    shares = np.array([0.1, 0.3, 0.0, 0.6])
    found = even(0.9, shares)
    assert found.sum(1) == pytest.approx(np.ones(4)) and found[2].tolist() == [0, 0, 1, 0]
    joint = shares[:, None] * found
    pairs = joint[~np.eye(4, dtype=bool) & (joint > 0)]
    assert len(pairs) == 6 and pairs == pytest.approx(np.full(6, 0.1 / 6))
    assert even(0.7, np.full(4, 0.25)) == pytest.approx(symmetric(0.7, 4))
    assert even(0.5, np.array([0.01, 0.99]))[0].tolist() == [0.5, 0.5]  # and no worse
    assert even(0.7, np.array([1.0])).tolist() == [[1.0]]


def test_a_rare_class_is_held_for_noisier_where_its_noise_cannot_be_known() -> None:
    """Right for labels that are wrong both ways alike, of which a few clean rows tell little."""
    shares = np.array([0.1, 0.3, 0.6])
    draw = np.random.default_rng(16)

    def rows(count: int) -> tuple[Any, Any]:
        truth = draw.choice(3, count, p=shares)
        near = np.log(shares) + 2 * (np.eye(3)[truth] + 0.5 * draw.normal(size=(count, 3)))
        return softmax(near), truth

    (model, truth), (clean, labels) = rows(4000), rows(60)
    given = np.array([draw.choice(3, p=even(0.9, shares)[label]) for label in truth])
    found = fitted(model, given, clean, labels)
    assert found[0, 0] < 0.8 < 0.85 < found[2, 2]


def test_without_clean_rows_and_with_other_shares_of_the_classes_confusions_are_alike() -> None:
    model, _, given = made(2000, 13)
    clean, labels, _ = made(300, 14)
    mostly = np.flatnonzero((labels == 0) | (np.arange(300) % 10 == 0))
    for rows in (np.arange(0), mostly):
        found = fitted(model, given, clean[rows], labels[rows])
        assert np.ptp(found[OFF]) < 1e-12 < np.ptp(found)
    assert alike(given, labels, 3) and not alike(given, labels[mostly], 3)


def test_few_clean_rows_of_many_classes_are_alike_by_chance() -> None:
    draw = np.random.default_rng(15)
    assert alike(draw.integers(0, 50, 5000), draw.integers(0, 50, 100), 50)
