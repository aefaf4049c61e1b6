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
    kernel = kernel_of(points, 1000, 0)
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
    kernel = kernel_of(points, 1000, 0)
    assert kernel is not None
    beliefs = np.eye(3)[given]
    before = others_say(points, beliefs, clean, labels, kernel)[0][7].argmax()
    beliefs[7] = np.roll(beliefs[7], 1)
    after = others_say(points, beliefs, clean, labels, kernel)[0][7].argmax()
    assert before == after == points[7].argmax()


def test_labels_that_are_wrong_are_outvoted() -> None:
    points, truth, given = made(600, 4)
    clean, labels, _ = made(200, 5)
    kernel = kernel_of(points, 100, 0)
    assert kernel is not None
    found, of_clean = others_say(points, np.eye(3)[given], clean, labels, kernel)
    assert (found.argmax(1) == truth).mean() > 0.9 > 0.75 > (given == truth).mean()
    assert found.sum(1) == pytest.approx(np.ones(600)) and of_clean.sum(1) == pytest.approx(np.ones(200))


def test_blocks_change_rounding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    points, _, given = made(300, 6)
    clean, labels, _ = made(50, 7)
    kernel = kernel_of(points, 60, 1)
    assert kernel is not None
    whole = others_say(points, np.eye(3)[given], clean, labels, kernel)[0]
    monkeypatch.setattr(others, "BLOCK", 37)
    assert others_say(points, np.eye(3)[given], clean, labels, kernel)[0] == pytest.approx(whole, abs=1e-9)


def test_the_kernel_is_that_of_its_landmarks() -> None:
    points, _, _ = made(80, 8)
    kernel = kernel_of(points, 80, 0)
    assert kernel is not None
    phi = kernel.features(points)
    apart = ((points[:, None] - points) ** 2).sum(-1)
    scale = np.median(apart[np.triu_indices(80, 1)])
    assert phi @ phi.T == pytest.approx(np.exp(-apart / scale), abs=1e-6)
    assert len(kernel_of(points, 10, 0).landmarks) == 10  # type: ignore[union-attr]


def test_points_at_one_place_say_nothing() -> None:
    assert kernel_of(np.ones((5, 2)), 5, 0) is None
    assert kernel_of(np.ones((1, 2)), 5, 0) is None
