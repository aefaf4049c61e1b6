"""Internal splits, held-out curves and the verdict on them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.core.holdout import held_out_curve, marked_steps, mean_and_error, splits, verdict
from pipeline.core.minimum import descend
from pipeline.core.rows import Part, mean_loss
from pipeline.core.strength import finished
from tests.core.test_minimum import SETTINGS
from tests.oracles_minimum import blobs, mlp, nll


def test_each_split_parts_the_rows_and_held_out_parts_are_disjoint():
    parts = splits(41, 4, 0.25, 7)
    assert all(sorted(fit + held) == list(range(41)) and len(held) == 10 for fit, held in parts)
    assert len({row for _, held in parts for row in held}) == 40
    assert splits(41, 4, 0.25, 7) == parts != splits(41, 4, 0.25, 8)
    assert splits(41, 2, 0.25, 7) == parts[:2]


def test_held_out_parts_wrap_around_when_there_are_too_many():
    parts = splits(10, 4, 0.5, 0)
    assert [sorted(held) for _, held in parts[2:]] == [sorted(held) for _, held in parts[:2]]
    assert all(sorted(fit + held) == list(range(10)) for fit, held in splits(10, 5, 0.3, 0))


def test_marked_steps_end_at_the_last_one():
    assert marked_steps(300) == list(range(15, 301, 15))
    assert marked_steps(3) == [1, 2, 3]
    assert len(marked_steps(47)) == 20 and marked_steps(47)[-1] == 47


def test_a_curve_is_the_held_out_loss_of_a_descent_on_the_rest():
    points, settings = blobs(1, 40), replace(SETTINGS, steps=40)
    split = splits(40, 1, 0.25, 0)[0]
    curve = finished(held_out_curve(mlp(0, [4, 6, 3]), nll, points, split, settings))
    assert curve.shape == (21, 10)
    model = mlp(0, [4, 6, 3])
    assert float(curve[0].mean()) == pytest.approx(mean_loss(model, nll, Part(points, split[1]), 99))
    for progress in descend(model, nll, Part(points, split[0]), settings):
        if progress.step % 2 == 0:
            expected = mean_loss(model, nll, Part(points, split[1]), 99)
            assert float(curve[progress.step // 2].mean()) == pytest.approx(expected, rel=1e-10)


def test_held_out_rows_are_never_fitted():
    points = blobs(1, 60)
    for split in splits(60, 3, 0.25, 0):
        points.fitted.clear()
        points.judged.clear()
        finished(held_out_curve(mlp(0, [4, 6, 3]), nll, points, split, replace(SETTINGS, method="sam", steps=30)))
        assert points.fitted == set(split[0]) and points.judged == set(split[1])


def test_mean_and_error():
    assert mean_and_error(torch.tensor([1.0, 2.0, 3.0, 4.0])) == pytest.approx((2.5, (5 / 3) ** 0.5 / 2))


def curve_of(values, noise=0.0):
    """A curve with these means; `noise` is how much rows differ in how they change."""
    steps = torch.tensor(values, dtype=torch.float64)[:, None]
    jitter = noise * torch.randn(len(values), 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return steps + jitter - jitter.mean(dim=1, keepdim=True) + torch.linspace(0, 1, 30, dtype=torch.float64)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([2.0, 1.0, 0.6, 0.5, 0.5], "held-out loss had settled at the end"),
        ([2.0, 1.5, 1.2, 1.0, 0.8], "still falling at the end: more steps"),
        ([2.0, 0.5, 0.6, 0.8, 0.9], "rising again at the end: fewer steps or a greater strength"),
        ([0.5, 0.6, 0.9, 1.0, 1.0], "ended above that of the trained weights: lower the learning rate"),
    ],
)
def test_the_verdict_reads_the_curve(values, words):
    assert words in verdict(curve_of(values))
    assert verdict(curve_of(values, noise=20.0)) == "held-out loss had settled at the end", "noise is no finding"
