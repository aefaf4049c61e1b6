"""Adversarial tasks: what a training reads, that it can be told apart step by step, and what options are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.game import advance
from pipeline.errors import TaskError
from pipeline.tasks.altered import altered
from pipeline.tasks.checks import check_task
from pipeline.tasks.gan import Gan, Pair, weights_of
from pipeline.tasks.gan_digits import GanDigits
from pipeline.tasks.gan_mixture import GanMixture

SMALL = {"train_size": 25, "validation_size": 12, "epochs": 2, "batch_rows": 10}


def mixture(**options: Any) -> GanMixture:
    return GanMixture(**{**SMALL, "query_size": 8, **options})


def trained(task: Gan, seed: int = 0) -> tuple[Pair, list[Any]]:
    """A pair after its training, and what each step was told with."""
    told: list[Any] = []
    task.step_taken = lambda *each: told.append(each)  # type: ignore[method-assign]
    torch.manual_seed(seed)
    model = task.model()
    task.train(model)
    return model, told


@pytest.mark.parametrize("make", [mixture, lambda: GanDigits(**SMALL)])
def test_it_is_a_task_that_trains_and_classifies_nothing(make: Any) -> None:
    facts = check_task(make())
    assert facts.trains and not facts.classifies and not facts.labelled
    assert (facts.train, facts.validation) == (25, 12)


@pytest.mark.parametrize("descent", ["sgd", "adam"])
def test_the_steps_that_are_told_lead_from_the_first_weights_to_the_last(descent: str) -> None:
    task = mixture(descent=descent, order="alternating")
    model, told = trained(task)
    assert [(step.number, epoch, len(step.positions)) for _, step, epoch in told] == [
        (1, 1, 10), (2, 1, 10), (3, 1, 5), (4, 2, 10), (5, 2, 10), (6, 2, 5)]  # fmt: skip
    game = task.game(model)
    for (state, step, _), after in zip(
        told, [*(each[0]["weights"] for each in told[1:]), weights_of(model)], strict=True
    ):
        found = advance(game, task.joint.rules, step, state, torch.ones_like(step.share))
        assert all(torch.equal(found["weights"][name], value) for name, value in after.items())


def test_a_training_without_some_rows_differs_by_these_alone() -> None:
    task = mixture()
    _, told = trained(task)
    kept = np.setdiff1d(np.arange(25), [3, 17])
    changed, rows = altered(task, kept, {})
    _, without = trained(changed)  # type: ignore[arg-type]
    assert rows.asked > 0
    for (_, step, _), (_, other, _) in zip(told, without, strict=True):
        assert torch.equal(step.positions, other.positions) and torch.equal(step.latents, other.latents)
        gone = np.isin(step.positions.numpy(), [3, 17])
        assert not other.share[gone].any() and float(other.share.sum()) == pytest.approx(1)
        assert torch.equal(step.rows[~gone], other.rows[~gone])


def test_the_loss_of_a_row_is_its_own_and_moves_the_discriminator_alone() -> None:
    task = mixture()
    model = task.model()
    (rows,) = task.train_rows().tensors
    whole = task.loss(model, [rows])
    assert torch.allclose(whole[4:6], task.loss(model, [rows[4:6]]))
    whole.sum().backward()
    assert all((value.grad is None) == name.startswith("generator.") for name, value in model.named_parameters())


def test_the_metric_has_samples_of_its_own_that_stay_the_same() -> None:
    task = mixture()
    model = task.model()
    first = task.metric(model, "validation")
    torch.manual_seed(5)
    assert task.metric(model, "validation") == first != task.metric(model, "query")
    exact = {name: value.double() for name, value in weights_of(model).items()}
    assert float(task.judge(model, "validation")(exact)) == pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize(
    "make", [mixture, lambda: GanDigits(**SMALL), lambda: GanDigits(**SMALL, figure="frechet")],
    ids=["mixture", "inception", "frechet"],
)  # fmt: skip
def test_the_metric_has_the_slope_of_its_differences(make: Any) -> None:
    task = make()
    model = task.model()
    weights = {name: value.double() for name, value in weights_of(model).items()}
    judged = task.judge(model, "validation")
    slope = torch.func.grad(judged)(weights)
    assert not any(value.any() for name, value in slope.items() if name.startswith("discriminator."))
    name = "generator.0.bias"
    step = torch.randn(weights[name].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up, down = (judged({**weights, name: weights[name] + sign * 1e-6 * step}) for sign in (1, -1))
    assert float((slope[name] * step).sum()) == pytest.approx(float(up - down) / 2e-6, rel=1e-5)
    many = {key: value.expand(3, *value.shape) for key, value in weights.items()}
    assert torch.allclose(torch.func.vmap(judged)(many), judged(weights))


@pytest.mark.parametrize("figure", ["inception", "frechet"])
def test_digits_are_judged_by_a_classifier_that_knows_digits(figure: str) -> None:
    task = GanDigits(**SMALL, figure=figure)
    pixels = task.inputs((task.train_rows().tensors[0],))
    noise = torch.rand(25, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = task.query_rows().tensors
    state = torch.get_rng_state()
    digits, other = (float(task.quality(samples, batch)) for samples in (pixels, noise))
    assert digits > other and torch.equal(state, torch.get_rng_state())
    assert figure == "frechet" or 0 < other < digits < np.log(10)


def test_junk_is_what_the_option_asks_for() -> None:
    for make in (lambda junk: mixture(junk=junk), lambda junk: GanDigits(**SMALL, junk=junk)):
        clean, spoilt = (task.train_rows().tensors[0] for task in (make(0.0), make(0.2)))
        differs = (clean != spoilt).flatten(1).any(1)
        assert make(0.2).junk == torch.nonzero(differs).flatten().tolist() and len(make(0.2).junk) == 5


class Normalised(GanMixture):
    def players(self) -> tuple[nn.Module, nn.Module]:
        return nn.Sequential(nn.Linear(10, 2), nn.BatchNorm1d(2)), nn.Linear(2, 1)


class Dropping(GanMixture):
    def players(self) -> tuple[nn.Module, nn.Module]:
        return nn.Linear(10, 2), nn.Sequential(nn.Dropout(0.1), nn.Linear(2, 1))


def test_what_cannot_be_traced_or_is_out_of_range_is_refused() -> None:
    with pytest.raises(TaskError, match="expected players without buffers"):
        Normalised(**SMALL).model()
    with pytest.raises(TaskError, match="expected players without dropout"):
        Dropping(**SMALL).model()
    with pytest.raises(TaskError, match="expected descent to be one of sgd, adam"):
        mixture(descent="adma")
    with pytest.raises(TaskError, match="expected rate to be a number above 0"):
        mixture(rate=0)
    with pytest.raises(TaskError, match="expected figure to be one of"):
        GanDigits(**SMALL, figure="fid")
