"""What the other rows say: against regressions that are fitted again without each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.core import others
from pipeline.core.calibration import softmax, temperature
from pipeline.core.others import RIDGES, kernel_of, others_say
from pipeline.core.trust import TINY


def made(count: int, seed: int, noise: float = 0.3) -> tuple[Any, Any, Any]:
    """Points [n, 3] of three classes, their labels, and given ones of which a share is wrong."""
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 3, count)
    points = np.eye(3)[truth] * 3 + draw.normal(size=(count, 3))
    given = np.where(draw.random(count) < noise, (truth + draw.integers(1, 3, count)) % 3, truth)
    return points, truth, given


def ridge_without(phi: Any, beliefs: Any, row: int, ridge: float, middle: Any, level: Any) -> Any:
    """The prediction for a row by a ridge regression of the others, on features and beliefs centred as with it."""
    rest = np.arange(len(phi)) != row
    # The mean is fitted too: a column without a ridge, whose square is 1 / N of the whole.
    x = np.concatenate([phi[rest] - middle, np.ones((rest.sum(), 1))], 1)
    penalty = np.diag([ridge] * phi.shape[1] + [0.0])
    w = np.linalg.solve(x.T @ x + penalty, x.T @ (beliefs[rest] - level))
    return np.append(phi[row] - middle, 1.0) @ w + level


def test_leaving_out_is_fitting_without_the_row() -> None:
    points, _, given = made(40, 0)
    clean, labels, _ = made(30, 1)
    beliefs = np.eye(3)[given]
    kernel = kernel_of(points, np.arange(len(points)))
    assert kernel is not None
    found, of_clean = others_say(points, beliefs, clean, labels, kernel)
    phi = kernel.features(points)
    middle, level = phi.mean(0), beliefs.mean(0)
    centred = phi - middle
    losses, said = [], []
    for share in RIDGES:
        ridge = share * np.linalg.eigvalsh(centred.T @ centred)[-1]
        w = np.linalg.solve(centred.T @ centred + ridge * np.eye(phi.shape[1]), centred.T @ (beliefs - level))
        logits = (kernel.features(clean) - middle) @ w + level
        factor = temperature(logits, labels, others.FACTORS)
        losses.append(-np.log(softmax(factor * logits)[np.arange(30), labels] + TINY).mean())
        rows = [ridge_without(phi, beliefs, row, ridge, middle, level) for row in range(40)]
        said.append((softmax(factor * np.stack(rows)), softmax(factor * logits)))
    expected, expected_clean = said[int(np.argmin(losses))]
    assert found == pytest.approx(expected, abs=1e-6)
    assert of_clean == pytest.approx(expected_clean, abs=1e-6)


def test_a_rows_own_belief_has_no_part() -> None:
    points, _, given = made(200, 2)
    clean, labels, _ = made(100, 3)
    kernel = kernel_of(points, np.arange(len(points)))
    assert kernel is not None
    beliefs = np.eye(3)[given]
    before = others_say(points, beliefs, clean, labels, kernel)[0][7].argmax()
    beliefs[7] = np.roll(beliefs[7], 1)
    after = others_say(points, beliefs, clean, labels, kernel)[0][7].argmax()
    assert before == after == points[7].argmax()


def test_labels_that_are_wrong_are_outvoted() -> None:
    points, truth, given = made(600, 4)
    clean, labels, _ = made(200, 5)
    kernel = kernel_of(points, np.arange(0, 600, 6))
    assert kernel is not None
    found, of_clean = others_say(points, np.eye(3)[given], clean, labels, kernel)
    assert (found.argmax(1) == truth).mean() > 0.9 > 0.75 > (given == truth).mean()
    assert found.sum(1) == pytest.approx(np.ones(600)) and of_clean.sum(1) == pytest.approx(np.ones(200))


def test_blocks_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _, given = made(300, 6)
    clean, labels, _ = made(50, 7)
    kernel = kernel_of(points, np.arange(0, 300, 5))
    assert kernel is not None
    whole = others_say(points, np.eye(3)[given], clean, labels, kernel)[0]
    monkeypatch.setattr(others, "BLOCK", 37)
    assert others_say(points, np.eye(3)[given], clean, labels, kernel)[0] == pytest.approx(whole, abs=1e-9)


def test_the_kernel_is_that_of_its_landmarks() -> None:
    points, _, _ = made(80, 8)
    kernel = kernel_of(points, np.arange(80))
    assert kernel is not None
    phi = kernel.features(points)
    apart = ((points[:, None] - points) ** 2).sum(-1)
    scale = np.median(apart[np.triu_indices(80, 1)])
    assert phi @ phi.T == pytest.approx(np.exp(-apart / scale), abs=1e-6)
    few = kernel_of(points, np.arange(10))
    assert few is not None and few.landmarks.tolist() == points[:10].tolist()


def said(points: Any, given: Any, clean: Any, labels: Any) -> Any:
    """What others say by all rows as landmarks, or None."""
    kernel = kernel_of(points, np.arange(len(points)))
    return None if kernel is None else others_say(points, np.eye(3)[given], clean, labels, kernel)


def test_points_at_one_place_say_nothing() -> None:
    assert kernel_of(np.ones((5, 2)), np.arange(5)) is None
    assert kernel_of(np.ones((1, 2)), np.arange(1)) is None


def test_points_of_which_most_are_at_one_place_do() -> None:
    points, _, given = made(300, 9)
    clean, labels, _ = made(100, 10)
    points[60:] = 0
    found = said(points, given, clean, labels)
    assert np.isfinite(found[0]).all() and found[0].sum(1) == pytest.approx(np.ones(300))


def test_points_that_are_no_numbers_say_nothing() -> None:
    points, _, given = made(100, 11)
    clean, labels, _ = made(50, 12)
    kernel = kernel_of(points, np.arange(50))
    assert kernel is not None
    for place in (points, clean):
        bad = place.copy()
        bad[-1, 0] = np.nan
        rows, held = (bad, clean) if place is points else (points, bad)
        assert others_say(rows, np.eye(3)[given], held, labels, kernel) is None
        assert said(rows, given, held, labels) is None


def test_a_row_of_which_no_other_says_anything_does_not_say_it_itself() -> None:
    far = np.diag([1e6] * 30)
    given = np.arange(30) % 3
    found = said(far, given, far + 1.0, given)
    assert found[0][np.arange(30), given].max() < 0.35
