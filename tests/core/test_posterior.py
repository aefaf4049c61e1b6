"""The posterior of a noise channel: against sums written out, its special cases, and what it must not depend on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.core import posterior
from pipeline.core.agreement import auc
from pipeline.core.posterior import (
    Clean,
    Rows,
    averaged,
    channel,
    honesty_of_folds,
    judged,
    nearest,
    nearest_to,
    posterior_of,
    softmax,
    temperature,
)
from pipeline.core.trust import BY_HEART

CHANNEL = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.05, 0.05, 0.9]])


def made(count: int, seed: int, sharpness: float = 3.0) -> tuple[Any, Any, Any]:
    """Calibrated probabilities [N, 3], and true and given labels drawn from them and from the channel."""
    draw = np.random.default_rng(seed)
    prior = softmax(sharpness * draw.normal(size=(count, 3)))
    truth = np.array([draw.choice(3, p=row) for row in prior])
    given = np.array([draw.choice(3, p=CHANNEL[label]) for label in truth])
    return prior, truth, given


def test_the_posterior_is_bayes_rule_written_out() -> None:
    prior, _, given = made(40, 0)
    found = posterior_of(prior, given, CHANNEL)
    for row in range(40):
        joint = [prior[row, true] * CHANNEL[true, given[row]] for true in range(3)]
        assert found[row] == pytest.approx(np.array(joint) / sum(joint))


def test_em_finds_the_channel_that_gave_the_labels() -> None:
    prior, _, given = made(20000, 1)
    assert np.abs(channel(prior, given, 0) - CHANNEL).max() < 0.03


def test_the_weight_draws_the_channel_towards_the_symmetric_one() -> None:
    prior, _, given = made(2000, 2)
    loose, tight = channel(prior, given, 0), channel(prior, given, 1e9)
    assert np.ptp(tight[~np.eye(3, dtype=bool)]) < 1e-5 < np.ptp(loose[~np.eye(3, dtype=bool)])
    assert np.allclose(tight.sum(1), 1) and np.allclose(loose.sum(1), 1)


def test_with_a_symmetric_channel_and_no_neighbours_the_order_is_that_of_the_loss() -> None:
    prior, _, given = made(500, 3)
    loss = -np.log(prior[np.arange(500), given])
    assert np.array_equal(np.argsort(judged(Rows(prior, given), None, 0, 1e15).surprise), np.argsort(loss))


def test_no_order_finds_more_wrong_labels_when_the_model_is_right() -> None:
    prior, truth, given = made(20000, 4)
    wrong = truth != given
    found = judged(Rows(prior, given), None, 0, 0)
    loss = -np.log(prior[np.arange(len(given)), given])
    exact = 1 - posterior_of(prior, given, CHANNEL)[np.arange(len(given)), given]
    assert auc(found.surprise, wrong) > auc(loss, wrong) + 0.02
    assert abs(auc(found.surprise, wrong) - auc(exact, wrong)) < 0.003
    assert np.mean(1 - np.exp(-found.surprise)) == pytest.approx(wrong.mean(), abs=0.01)


def test_neighbours_add_what_a_weak_model_does_not_know() -> None:
    draw = np.random.default_rng(5)
    truth = draw.integers(0, 3, 900)
    features = np.eye(3)[truth] * 4 + draw.normal(size=(900, 3))
    prior = softmax(np.eye(3)[truth] + 2 * draw.normal(size=(900, 3)))
    given = np.where(draw.random(900) < 0.3, (truth + draw.integers(1, 3, 900)) % 3, truth)
    alone, helped = (auc(judged(Rows(prior, given, features), None, k, 100).surprise, truth != given) for k in (0, 20))
    assert helped > alone + 0.05


def test_nearest_rows_are_those_of_all_cosines() -> None:
    features = np.random.default_rng(6).normal(size=(2500, 5))  # more than two blocks
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -2)
    found = nearest(features * np.arange(1, 2501)[:, None], 7)
    assert [set(row) for row in found.tolist()] == [set(row) for row in np.argsort(-likeness)[:, :7].tolist()]


@pytest.mark.parametrize("tile", [64, 999, 5])
def test_nearest_rows_do_not_depend_on_the_tiles(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(7).normal(size=(1300, 6))
    whole = nearest(features, 9)
    assert not (whole == np.arange(1300)[:, None]).any()
    monkeypatch.setattr(posterior, "TILE", tile)
    assert nearest(features, 9).tolist() == whole.tolist()


def test_the_order_of_the_rows_does_not_matter() -> None:
    prior, _, given = made(300, 7)
    features = np.random.default_rng(8).normal(size=(300, 4))
    order = np.random.default_rng(9).permutation(300)
    found = judged(Rows(prior, given, features), None, 10, 50).surprise[order]
    assert found == pytest.approx(judged(Rows(prior, given, features).at(order), None, 10, 50).surprise)


def test_temperature_undoes_what_logits_were_multiplied_by() -> None:
    draw = np.random.default_rng(10)
    logits = draw.normal(size=(20000, 4)) * 2
    labels = np.array([draw.choice(4, p=row) for row in softmax(logits)])
    for factor in (0.3, 1.0, 4.0):
        assert temperature(factor * logits, labels) == pytest.approx(1 / factor, rel=0.05)


def test_folds_are_averaged_as_probabilities() -> None:
    folds = [np.log(np.array([[0.2, 0.8]])), np.log(np.array([[0.6, 0.4]]))]
    assert averaged(folds, 1.0) == pytest.approx(np.array([[0.4, 0.6]]))


def test_certain_rows_keep_their_order() -> None:
    prior = softmax(np.array([[0.0, 40.0], [0.0, 60.0], [0.0, 90.0], [50.0, 0.0]]))
    surprise = judged(Rows(prior, np.zeros(4, int)), None, 0, 1).surprise
    assert np.isfinite(surprise).all() and (np.diff(surprise[:3]) > 1).all()


def clean_rows(count: int, seed: int, features: int = 4) -> tuple[Clean, Any]:
    """Clean rows whose `trained` is the truth told loudly, and the probabilities behind it."""
    prior, truth, _ = made(count, seed)
    draw = np.random.default_rng(seed)
    return Clean(prior, np.log(prior), draw.normal(size=(count, features)), truth), prior


def test_a_model_that_repeats_every_label_leaves_folds_and_neighbours_as_they_are() -> None:
    clean, _ = clean_rows(300, 11)
    prior, _, given = made(300, 12)
    features = np.random.default_rng(13).normal(size=(300, 8))
    repeats = np.log(np.eye(3)[given] * 0.98 + 0.01)
    found = judged(Rows(prior, given, features, repeats), clean, 10, 50)
    plain = judged(Rows(prior, given, features), None, 10, 50)
    assert found.trust == BY_HEART
    assert np.array_equal(found.surprise, plain.surprise)


def test_neighbours_that_know_nothing_are_not_asked_of_an_honest_model() -> None:
    clean, _ = clean_rows(2000, 14)
    prior, _, given = made(2000, 15)
    features = np.random.default_rng(16).normal(size=(2000, 8))
    found = judged(Rows(prior, given, features, np.log(prior)), clean, 10, 50)
    assert found.trust.honesty > 0.9 and found.trust.neighbours < 0.3
    asked, alone = (
        judged(Rows(prior, given, features, np.log(prior)), each, k, 50) for each, k in ((None, 10), (clean, 0))
    )
    off = [np.abs(found.true - each.true).mean() for each in (asked, alone)]
    assert off[0] > 3 * off[1]


def test_an_honest_model_that_knows_more_than_the_folds_is_asked() -> None:
    prior, truth, given = made(4000, 17)
    weak = softmax(np.log(prior) + 2 * np.random.default_rng(18).normal(size=prior.shape))
    half = np.arange(4000) < 2000
    clean = Clean(weak[half], np.log(prior[half]), None, truth[half])
    rows = Rows(weak[~half], given[~half], None, np.log(prior[~half]))
    found = judged(rows, clean, 0, 50)
    wrong = truth[~half] != given[~half]
    assert found.trust.trained > 0.6
    assert auc(found.surprise, wrong) > auc(judged(rows, None, 0, 50).surprise, wrong) + 0.03


def test_nearest_to_points_of_their_own_are_those_of_all_cosines() -> None:
    draw = np.random.default_rng(19)
    points, features = draw.normal(size=(700, 5)), draw.normal(size=(900, 5))
    likeness = (points / np.linalg.norm(points, axis=1, keepdims=True)) @ (
        features / np.linalg.norm(features, axis=1, keepdims=True)
    ).T
    expected = [set(row) for row in np.argsort(-likeness)[:, :6].tolist()]
    assert [set(row) for row in nearest_to(points, features, 6).tolist()] == expected


def test_rows_that_are_no_numbers_are_told() -> None:
    prior = np.full((3, 2), 0.5)
    trained = np.log(prior)
    trained[1, 0] = np.nan
    assert Rows(prior, np.zeros(3, int), None, trained).finite().tolist() == [True, False, True]


def test_folds_that_repeat_every_label_leave_it_to_the_neighbours() -> None:
    clean, _ = clean_rows(300, 20)
    draw = np.random.default_rng(21)
    truth = draw.integers(0, 3, 600)
    given = np.where(draw.random(600) < 0.3, (truth + draw.integers(1, 3, 600)) % 3, truth)
    features = np.eye(3)[truth] * 4 + draw.normal(size=(600, 3))
    repeats = np.eye(3)[given] * (1 - 3e-9) + 1e-9  # so sure that it would outvote any neighbours
    assert honesty_of_folds(repeats, given, clean) == 0
    rows = Rows(repeats, given, features, np.log(repeats))
    found = judged(rows, replace(clean, features=None), 20, 50)
    assert found.trust.folds == 0
    wrong = truth != given
    assert auc(found.surprise, wrong) > 0.95
    assert np.median(found.surprise[wrong]) > 0.3  # nats; with P, which has no doubt, next to nothing
