"""Planted noise does exactly what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError, TaskError
from pipeline.tasks.noise import most_confusable, plant, stream

LABELS = np.arange(1000) % 10


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(0, 200),
    st.floats(0, 1),
    st.integers(2, 7),
    st.integers(0, 9),
    st.sampled_from(["uniform", "confusable"]),
)
def test_exactly_the_share_is_flipped_to_other_classes(
    count: int, rate: float, classes: int, seed: int, kind: str
) -> None:
    labels = np.random.default_rng(count).integers(0, classes, count)
    before = labels.copy()
    ring = (np.arange(classes) + 1) % classes
    noisy = plant(labels, kind, rate, classes, seed, ring)
    assert (noisy != labels).sum() == round(rate * count) and np.array_equal(labels, before)
    assert noisy.dtype == np.int64 and ((noisy >= 0) & (noisy < classes)).all()
    if kind == "confusable":
        assert (noisy[noisy != labels] == ring[labels[noisy != labels]]).all()


def test_uniform_means_every_other_class_alike() -> None:
    labels = np.zeros(90_000, dtype=int)
    counts = np.bincount(plant(labels, "uniform", 1.0, 10, 0), minlength=10)
    assert counts[0] == 0 and abs(counts[1:] - 10_000).max() < 500  # 5 standard deviations


def test_none_changes_nothing_and_copies() -> None:
    noisy = plant(LABELS, "none", 0.3, 10, 0)
    assert np.array_equal(noisy, LABELS) and noisy is not LABELS


def test_the_seed_decides() -> None:
    one, again, other = (plant(LABELS, "uniform", 0.2, 10, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again) and not np.array_equal(one, other)
    assert stream(1, "a").integers(1 << 40) != stream(1, "b").integers(1 << 40)


def test_confusable_classes_are_those_that_overlap() -> None:
    draw = np.random.default_rng(0)
    centres = np.array([[0.0, 0], [1.2, 0], [20, 20], [21.2, 20]])
    labels = np.arange(400) % 4
    features = centres[labels] + draw.normal(size=(400, 2))
    assert most_confusable(features, labels, 4, 0).tolist() == [1, 0, 3, 2]
    assert most_confusable(features * 1000 + 7, labels, 4, 0).tolist() == [1, 0, 3, 2]


def test_confusable_without_confusion_still_names_another_class() -> None:
    labels = np.arange(40) % 4
    to = most_confusable(np.eye(4)[labels] * 50 + np.arange(4) * 1e-3, labels, 4, 0)
    assert (to != np.arange(4)).all() and set(to) <= {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"kind": "gauss"},
            TaskError,
            r"^expected noise to be one of none, uniform, confusable, instance, got 'gauss'; choose",
        ),
        ({"rate": 1.2}, TaskError, r"^expected noise_rate from 0 to 1, got 1.2; give"),
        ({"rate": "much"}, TaskError, r"^expected noise_rate from 0 to 1, got 'much'"),
        ({"rate": True}, TaskError, r"^expected noise_rate from 0 to 1, got True"),
        ({"rate": float("nan")}, TaskError, r"^expected noise_rate from 0 to 1, got nan"),
        ({"classes": 1}, DataError, r"^expected at least 2 classes for planted noise, got 1;"),
        ({"classes": 5}, DataError, r"^expected labels from 0 to 4, got 0 to 9; renumber them$"),
        ({"kind": "confusable"}, TaskError, r"^expected a map of confusable classes .*see most_confusable$"),
        ({"kind": "confusable", "confusable": np.arange(10)}, DataError, r"no class may map to itself$"),
        (
            {"kind": "confusable", "confusable": np.arange(3)},
            DataError,
            r"expected confusable to name another class, 0 to 9",
        ),
    ],
)
def test_what_is_refused(change: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        plant(**({"labels": LABELS, "kind": "uniform", "rate": 0.2, "classes": 10, "seed": 0} | change))


def test_instance_noise_falls_on_hard_rows_and_on_what_they_look_like() -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 6000)
    chances = np.tile([0.98, 0.01, 0.01], (6000, 1))
    chances[:3000] = [0.4, 0.5, 0.1]  # hard, and taken for class 1
    chances = np.stack([np.roll(row, label) for row, label in zip(chances, labels, strict=True)])
    noisy = plant(labels, "instance", 0.2, 3, 0, chances=chances)
    wrong = noisy != labels
    assert wrong.sum() == 1200 and wrong[:3000].mean() > 10 * wrong[3000:].mean()
    next_one = (noisy[:3000] - labels[:3000]) % 3 == 1
    assert 0.75 < next_one[wrong[:3000]].mean() < 0.9  # 5 to 1
    with pytest.raises(TaskError, match=r"^expected chances of each row for noise 'instance', got none"):
        plant(labels, "instance", 0.2, 3, 0)


def test_rare_classes_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"^expected at least 2 rows of each class to find confusable classes, got 0; use more rows$"
    ):
        most_confusable(np.ones((4, 2)), np.array([0, 0, 1, 1]), 3, 0)
