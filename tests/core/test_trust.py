"""What clean rows say about whom to believe."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.trust import PULL, combined, exponents, honesty

ONE = np.array([[0.6, 0.4], [0.3, 0.7], [0.5, 0.5]])
OTHER = np.array([[0.9, 0.1], [0.1, 0.9], [0.2, 0.8]])


def test_sources_are_combined_as_products_of_powers() -> None:
    expected = ONE**0.5 * OTHER**2
    assert combined([ONE, OTHER], np.array([0.5, 2.0])) == pytest.approx(expected / expected.sum(1, keepdims=True))
    assert combined([ONE, OTHER], np.array([1.0, 0.0])) == pytest.approx(ONE)


def test_no_source_forbids_a_label_alone() -> None:
    sure = np.array([[1.0, 0.0]])
    assert combined([sure, np.array([[1e-9, 1.0]])], np.array([0.5, 0.5]))[0, 1] > 0.01


def source(said: int, of: int) -> np.ndarray:
    """Probabilities [of, 2] that say label 1 for so many rows, else 0."""
    return np.eye(2)[(np.arange(of) < said) * 1]


@pytest.mark.parametrize(("disagreeing", "errors", "expected"), [(0, 20, 0.0), (300, 300, 1.0), (100, 200, 0.56)])
def test_honesty_is_the_share_of_its_errors(disagreeing: int, errors: int, expected: float) -> None:
    zeros = np.zeros(1000, int)
    assert honesty(source(disagreeing, 1000), zeros, source(errors, 1000), zeros) == pytest.approx(expected, abs=0.01)


def test_few_clean_rows_accuse_no_source_that_is_nearly_always_right() -> None:
    train, clean = np.zeros(2000, int), np.zeros(30, int)
    assert honesty(source(20, 2000), train, source(0, 30), clean) == 1.0
    assert honesty(source(0, 2000), train, source(0, 30), clean) == 0.0
    assert honesty(source(20, 2000), train, source(9, 30), clean) < 0.1


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    logits = 2 * draw.normal(size=(count, 3))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return p, np.array([draw.choice(3, p=row) for row in p])


def test_exponents_find_the_source_that_is_right() -> None:
    right, labels = drawn(4000, 0)
    noise, _ = drawn(4000, 1)
    w = exponents([noise, right], labels)
    assert w == pytest.approx([0.0, 1.0], abs=0.05)


def test_a_source_that_is_too_sure_is_toned_down() -> None:
    right, labels = drawn(4000, 2)
    loud = right**3 / (right**3).sum(1, keepdims=True)
    assert exponents([loud], labels) == pytest.approx([1 / 3], rel=0.1)


def test_sources_that_say_the_same_share_the_weight() -> None:
    right, labels = drawn(1000, 3)
    w = exponents([right, right], labels)
    assert w[0] == pytest.approx(w[1]) and w.sum() == pytest.approx(1, abs=0.1)


def test_exponents_are_at_the_least_loss() -> None:
    right, labels = drawn(300, 4)
    other, _ = drawn(300, 5)
    mixed = combined([right, other], np.array([0.5, 0.5]))

    def loss(w: np.ndarray) -> float:
        said = combined([right, mixed], w)
        return float(-np.log(said[np.arange(300), labels]).sum() + PULL * ((w - 0.5) ** 2).sum())

    w = exponents([right, mixed], labels)
    assert (w >= 0).all()
    for step in ([1e-3, 0.0], [0.0, 1e-3], [-1e-3, 0.0], [0.0, -1e-3]):
        assert loss(np.maximum(w + step, 0)) >= loss(w) - 1e-9


def test_no_clean_row_leaves_the_geometric_mean() -> None:
    assert exponents([np.zeros((0, 3))] * 2, np.zeros(0, int)) == pytest.approx([0.5, 0.5])
