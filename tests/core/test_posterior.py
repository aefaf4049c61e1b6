"""The posterior of a noise channel: its special cases, whom it believes, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.core.agreement import auc
from pipeline.core.calibration import softmax
from pipeline.core.channel import even, posterior_of, symmetric
from pipeline.core.posterior import FEATURES, FOLDS, INPUTS, TRAINED, Clean, Rows, averaged, judged

NONE = np.arange(0)
"""No landmarks."""
CHANNEL = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.05, 0.05, 0.9]])


def drawn(count: int, seed: int) -> tuple[Any, Any, Any]:
    """Calibrated probabilities [n, 3], and true and given labels drawn from them and from the channel."""
    draw = np.random.default_rng(seed)
    prior = softmax(3 * draw.normal(size=(count, 3)))
    truth = np.array([draw.choice(3, p=row) for row in prior])
    given = np.array([draw.choice(3, p=CHANNEL[label]) for label in truth])
    return prior, truth, given


def known(count: int, seed: int) -> tuple[Rows, Any]:
    """Train rows of which the folds and `trained` say the same, and their true labels."""
    prior, truth, given = drawn(count, seed)
    return Rows(prior, np.log(prior), given), truth


def clean_rows(count: int, seed: int) -> Clean:
    """Clean rows of the same kind."""
    prior, truth, _ = drawn(count, seed)
    return Clean(prior, np.log(prior), truth)


def points(count: int, seed: int) -> tuple[Any, Any, Any]:
    """Points [n, 3] of three classes, true labels, and given ones of which three in ten are wrong."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 3, count)
    given = np.where(draw.random(count) < 0.3, (truth + draw.integers(1, 3, count)) % 3, truth)
    return np.eye(3)[truth] * 4 + draw.normal(size=(count, 3)), truth, given


def weak(truth: Any, seed: int) -> Any:
    """What a model says that knows little of them, [n, 3]."""
    return softmax(np.eye(3)[truth] + 2 * np.random.default_rng(seed).normal(size=(len(truth), 3)))


def test_without_clean_rows_the_order_is_that_of_the_loss_of_the_folds() -> None:
    rows, _ = known(500, 3)
    loss = -np.log(rows.prior[np.arange(500), rows.given])
    found = judged(rows, None, np.arange(100))
    assert np.array_equal(np.argsort(found.surprise), np.argsort(loss))
    assert found.exponents == {FOLDS: 1.0} and found.honesty == {}


def test_no_order_finds_more_wrong_labels_when_the_model_is_right() -> None:
    rows, truth = known(20000, 4)
    wrong = truth != rows.given
    found = judged(rows, clean_rows(5000, 5), NONE)
    place = np.arange(len(rows.given)), rows.given
    loss, exact = -np.log(rows.prior[place]), 1 - posterior_of(rows.prior, rows.given, CHANNEL)[place]
    assert auc(found.surprise, wrong) > auc(loss, wrong) + 0.02
    assert abs(auc(found.surprise, wrong) - auc(exact, wrong)) < 0.005
    assert np.mean(1 - np.exp(-found.surprise)) == pytest.approx(wrong.mean(), abs=0.02)


@pytest.mark.parametrize("where", ["features", "inputs"])
def test_other_rows_add_what_a_weak_model_does_not_know(where: str) -> None:
    here, truth, given = points(900, 6)
    there, labels, _ = points(300, 7)
    said, of_clean = weak(truth, 8), weak(labels, 9)
    rows = Rows(said, np.log(said), given, **{where: here})  # type: ignore[arg-type]
    clean = Clean(of_clean, np.log(of_clean), labels, **{where: there})  # type: ignore[arg-type]
    alone, helped = (judged(rows, clean, np.arange(landmarks)) for landmarks in (0, 200))
    assert auc(helped.surprise, truth != given) > auc(alone.surprise, truth != given) + 0.05
    assert set(helped.honesty) - set(alone.honesty) == {FEATURES if where == "features" else INPUTS}


def test_a_model_that_repeats_every_label_is_not_believed() -> None:
    rows, _ = known(300, 10)
    repeats = np.log(np.eye(3)[rows.given] * 0.98 + 0.01)
    found = judged(replace(rows, trained=repeats), clean_rows(300, 11), NONE)
    assert found.honesty[TRAINED] == 0 and set(found.exponents) == {FOLDS}


def test_an_honest_model_that_knows_more_than_the_folds_is_believed() -> None:
    rows, _ = known(4000, 17)
    clean = clean_rows(2000, 18)
    draw = np.random.default_rng(19)
    dull, of_clean = (softmax(np.log(each.prior) + 2 * draw.normal(size=each.prior.shape)) for each in (rows, clean))
    found = judged(replace(rows, prior=dull), replace(clean, prior=of_clean), NONE)
    assert found.exponents[TRAINED] > 0.6 > found.exponents[FOLDS]


def test_what_the_model_knows_is_said_by_its_features_without_the_rows_own_label() -> None:
    here, truth, given = points(600, 39)
    there, labels, _ = points(300, 40)
    said, of_clean = weak(truth, 41), weak(labels, 42)
    rows, clean = Rows(said, np.log(said), given, here), Clean(of_clean, np.log(of_clean), labels, there)
    found = judged(rows, clean, np.arange(200))
    assert found.honesty[TRAINED] == 1 and set(found.exponents) == {FOLDS, FEATURES}
    assert set(judged(replace(rows, features=None), clean, np.arange(200)).exponents) == {FOLDS, TRAINED}


def test_folds_that_repeat_every_label_leave_it_to_the_inputs() -> None:
    here, truth, given = points(600, 20)
    there, labels, _ = points(300, 21)
    repeats = np.eye(3)[given] * (1 - 3e-9) + 1e-9  # so sure that it would outvote any others
    by_heart = np.eye(3)[given] * 3 + 0.1 * here  # features that hold the given label
    of_clean = weak(labels, 22)
    rows = Rows(repeats, np.log(repeats), given, by_heart, here)
    clean = Clean(of_clean, np.log(of_clean), labels, 0.1 * there, there)
    found = judged(rows, clean, np.arange(200))
    assert found.honesty[FOLDS] == found.honesty[TRAINED] == 0
    assert set(found.exponents) == {INPUTS}
    assert auc(found.surprise, truth != given) > 0.95


def test_where_all_repeat_the_labels_the_most_honest_is_asked() -> None:
    rows, _ = known(300, 23)
    repeats = np.eye(3)[rows.given] * 0.98 + 0.01
    nearly = repeats.copy()
    nearly[:20] = np.roll(nearly[:20], 1, 1)
    found = judged(replace(rows, prior=nearly, trained=np.log(repeats)), clean_rows(300, 24), NONE)
    assert 0 < found.honesty[FOLDS] < 0.5 and set(found.exponents) == {FOLDS}


@pytest.mark.parametrize("alike", [True, False])
def test_what_repeats_the_labels_tells_no_channel(alike: bool) -> None:
    prior, truth, given = drawn(3000, 20)
    said = softmax(np.log(prior) + 9 * np.eye(3)[given])  # the labels by heart
    clean = clean_rows(1000, 21)
    if not alike:
        kept = clean.labels == 0
        clean = Clean(clean.prior[kept], clean.trained[kept], clean.labels[kept])
    found = judged(Rows(said, np.log(said), given), clean, NONE)
    shares = np.bincount(clean.labels, minlength=3) + 30 * np.bincount(given) / len(given)
    assert found.channel == pytest.approx(even(0.6, shares / shares.sum()) if alike else symmetric(0.6, 3))
    assert auc(found.surprise, truth != given) > 0.6
    assert found.assumed and not judged(Rows(prior, np.log(prior), given), clean, NONE).assumed


def test_features_of_a_model_by_heart_are_asked_while_the_folds_are_honest() -> None:
    here, truth, given = points(900, 25)
    there, labels, _ = points(300, 26)
    said, of_clean = weak(truth, 27), weak(labels, 28)
    held = np.eye(3)[given] * 6 + here
    repeats = np.log(np.eye(3)[given] * 0.98 + 0.01)
    found = judged(Rows(said, repeats, given, held), Clean(of_clean, np.log(of_clean), labels, there), np.arange(200))
    assert found.honesty[FOLDS] > 0.5 and FEATURES in found.exponents


def test_the_order_of_the_rows_does_not_matter() -> None:
    here, truth, given = points(300, 29)
    there, labels, _ = points(100, 30)
    said, of_clean = weak(truth, 31), weak(labels, 32)
    rows = Rows(said, np.log(said), given, here)
    clean = Clean(of_clean, np.log(of_clean), labels, there)
    order = np.random.default_rng(33).permutation(300)
    mixed = judged(rows.at(order), clean, np.arange(300)).surprise
    assert mixed == pytest.approx(judged(rows, clean, np.arange(300)).surprise[order], rel=1e-6)


def test_folds_are_averaged_as_probabilities() -> None:
    folds = [np.log(np.array([[0.2, 0.8]])), np.log(np.array([[0.6, 0.4]]))]
    assert averaged(folds, 1.0) == pytest.approx(np.array([[0.4, 0.6]]))


def test_certain_rows_keep_their_order() -> None:
    prior = softmax(np.array([[0.0, 40.0], [0.0, 60.0], [0.0, 90.0], [50.0, 0.0]]))
    surprise = judged(Rows(prior, np.log(prior), np.zeros(4, int)), None, NONE).surprise
    assert np.isfinite(surprise).all() and (np.diff(surprise[:3]) > 1).all()


def test_rows_that_are_no_numbers_are_told() -> None:
    prior = np.full((3, 2), 0.5)
    trained = np.log(prior)
    trained[1, 0] = np.nan
    features = np.zeros((3, 4))
    features[2, 3] = np.inf
    assert Rows(prior, trained, np.zeros(3, int), features).finite().tolist() == [True, False, False]


def test_inputs_with_a_hole_are_not_asked_and_cost_no_row() -> None:
    here, truth, given = points(300, 34)
    there, labels, _ = points(100, 35)
    said, of_clean = weak(truth, 36), weak(labels, 37)
    here[5, 0] = np.nan
    rows = Rows(said, np.log(said), given, None, here)
    found = judged(rows, Clean(of_clean, np.log(of_clean), labels, None, there), np.arange(100))
    assert rows.finite().all() and np.isfinite(found.surprise).all()
    assert INPUTS not in found.honesty


def test_few_clean_rows_leave_good_sources_where_nearly_all_labels_are_right() -> None:
    draw = np.random.default_rng(38)
    truth = draw.integers(0, 4, 2000)
    given = np.where(draw.random(2000) < 0.01, (truth + 1) % 4, truth)
    labels = draw.integers(0, 4, 30)
    good, of_clean = (softmax(7 * np.eye(4)[y] + draw.normal(size=(len(y), 4))) for y in (truth, labels))
    means = draw.normal(size=(4, 10)) * 0.55
    here, there = (means[y] + draw.normal(size=(len(y), 10)) for y in (truth, labels))
    rows = Rows(good, np.log(good), given, None, here)
    found = judged(rows, Clean(of_clean, np.log(of_clean), labels, None, there), np.arange(300))
    assert {FOLDS, TRAINED} <= set(found.exponents)
    assert auc(found.surprise, truth != given) > 0.99
