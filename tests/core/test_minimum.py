"""The descent: closed forms, determinism, what must not change, and what goes wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain

import pytest
import torch
from torch import nn

from pipeline.core.minimum import Divergence, Settings, batch_order, descend
from pipeline.core.rows import mean_loss
from pipeline.core.sharpness import filter_noise_rise, top_eigenvalue
from pipeline.errors import ConfigError, DataError, TaskError
from tests.oracles_minimum import Points, Quadratic, blobs, mlp, nll, quadratic_loss, weights

SETTINGS = Settings(
    method="plain",
    strength=0.1,
    steps=7,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=0.01,
    batch_rows=4,
    noise_parts=2,
    noise_growth=3.0,
    optimizer="sgd",
    seed=5,
)
METHODS = ["plain", "sam", "asam", "lpf"]
MATRIX = torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
SLOPE = torch.tensor([0.5, -1.0], dtype=torch.float64)
START = torch.tensor([1.0, -2.0], dtype=torch.float64)


def run(model, loss, rows, settings):
    return list(descend(model, loss, rows, settings))


def same_rows(count=10):
    return Points(torch.zeros(count, 1), torch.zeros(count, dtype=torch.long))


def test_sam_with_momentum_decay_and_cosine_follows_the_recursion():
    model = Quadratic(START)
    progress = run(model, quadratic_loss(MATRIX, SLOPE), same_rows(), replace(SETTINGS, method="sam"))
    w, velocity = START.clone(), torch.zeros(2, dtype=torch.float64)
    for step in range(7):
        assert progress[step].loss == pytest.approx(float(0.5 * w @ MATRIX @ w + SLOPE @ w), abs=1e-12)
        g = MATRIX @ w + SLOPE
        velocity = 0.9 * velocity + MATRIX @ (w + 0.1 * g / g.norm()) + SLOPE + 0.01 * w
        w = w - 0.1 * (1 + math.cos(math.pi * step / 7)) / 2 * velocity
    assert torch.allclose(model.weight.detach(), w, rtol=1e-9)
    assert [(p.step, p.steps) for p in progress] == [(i, 7) for i in range(1, 8)]


def test_plain_descent_reaches_the_minimum_of_a_quadratic():
    model = Quadratic(START)
    run(model, quadratic_loss(MATRIX, SLOPE), same_rows(), replace(SETTINGS, steps=300, weight_decay=0.0))
    assert torch.allclose(model.weight.detach(), -torch.linalg.solve(MATRIX, SLOPE), atol=1e-8)


def test_adamw_first_step_is_the_learning_rate_in_each_coordinate():
    model = Quadratic(START)
    run(model, quadratic_loss(MATRIX, SLOPE), same_rows(), replace(SETTINGS, steps=1, optimizer="adamw"))
    gradient = MATRIX @ START + SLOPE
    assert torch.allclose(model.weight.detach(), START * (1 - 0.1 * 0.01) - 0.1 * gradient.sign(), atol=1e-6)


def test_each_epoch_sees_every_row_once_in_a_new_order():
    order = list(batch_order(10, replace(SETTINGS, steps=6)))
    assert [len(chosen) for chosen in order] == [4, 4, 2, 4, 4, 2]
    first, second = (list(chain(*epoch)) for epoch in (order[:3], order[3:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert len(list(batch_order(10, SETTINGS))) == 7


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_weights_whatever_the_global_generator(method):
    settings, results = replace(SETTINGS, method=method), []
    for number in range(2):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        model = mlp(0, [4, 6, 3])
        run(model, nll, blobs(1, 22), settings)
        assert torch.equal(torch.get_rng_state(), state), "the global generator must not be used"
        results.append(weights(model))
    assert torch.equal(*results)
    other = mlp(0, [4, 6, 3])
    run(other, nll, blobs(1, 22), replace(settings, seed=6))
    assert not torch.equal(weights(other), results[0])


def test_the_gradient_of_unequal_parts_is_that_of_the_whole_batch():
    trained = []
    for parts in (1, 3):  # a batch of 4 in three parts: 2, 1, 1
        model = mlp(0, [4, 6, 3])
        run(model, nll, blobs(1, 22), replace(SETTINGS, method="lpf", strength=0.0, noise_parts=parts))
        trained.append(weights(model))
    assert torch.allclose(*trained, rtol=1e-10)


def noisy_nll(model, batch):
    """A loss that draws from the global generator, as a diffusion loss does."""
    x = batch[0] + torch.randn(batch[0].shape, dtype=torch.float64)
    return nn.functional.cross_entropy(model(x), batch[1], reduction="none")


@pytest.mark.parametrize("method", METHODS)
def test_a_loss_that_draws_numbers_is_seeded(method):
    results = []
    for number in range(2):
        torch.manual_seed(number)
        model = mlp(0, [4, 6, 3])
        run(model, noisy_nll, blobs(1, 22), replace(SETTINGS, method=method))
        results.append(weights(model))
    assert torch.equal(*results)


def test_both_passes_of_sam_see_the_same_draws_and_steps_do_not():
    draws = []

    def loss(model, batch):
        draws.append(float(torch.rand(())))
        return nll(model, batch)

    run(mlp(0, [4, 6, 3]), loss, blobs(1, 22), replace(SETTINGS, method="sam"))
    assert draws[::2] == draws[1::2] and len(set(draws)) == 7


def mixed_model():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    model.train()
    with torch.no_grad():
        model(blobs(3, 60).x)  # statistics other than 0 and 1
    model[4].requires_grad_(False)
    model[3].eval()
    return model


@pytest.mark.parametrize("method", METHODS)
def test_statistics_modes_and_frozen_parameters_are_untouched(method):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mixed_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    for _ in descend(model, nll, blobs(1, 20), replace(SETTINGS, method=method)):
        assert not any(module.training for module in model.modules())
    after = model.state_dict()
    assert [module.training for module in model.modules()] == modes
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_an_unused_parameter_is_not_decayed():
    model = mlp(0, [4, 6, 3])
    model.spare = nn.Parameter(torch.ones(3))
    run(model, lambda m, b: nn.functional.cross_entropy(m[:3](b[0]), b[1], reduction="none"), blobs(1, 20), SETTINGS)
    assert torch.equal(model.spare.detach(), torch.ones(3))


@pytest.mark.parametrize("seed", [0, 1])
def test_sam_finds_a_flatter_minimum_than_plain_where_the_model_memorises(seed):
    points = blobs(2 + seed, 60, spread=2.0)
    points.y[::5] = (points.y[::5] + 1) % 3
    settings = replace(SETTINGS, strength=0.2, steps=300, batch_rows=20, weight_decay=0.0)
    top, rise = {}, {}
    for method in ("plain", "sam"):
        model = mlp(seed, [4, 48, 3])
        run(model, nll, points, replace(settings, method=method))
        top[method] = top_eigenvalue(model, nll, points, 40, 1e-2, 0).value
        rise[method] = filter_noise_rise(model, nll, points, 0.03, 10, 0).mean
    assert top["sam"] < 0.75 * top["plain"] and rise["sam"] < 0.8 * rise["plain"]


@pytest.mark.parametrize("method", METHODS)
def test_divergence_says_what_to_lower(method):
    settings = replace(SETTINGS, method=method, learning_rate=1e200, steps=20)
    message = f"expected a finite loss while descending by {method}, got .*: lower the learning rate"
    with pytest.raises(Divergence, match=message) as e:
        run(Quadratic(START), quadratic_loss(MATRIX, SLOPE), same_rows(), settings)
    assert ("the strength (now 0.1)" in str(e.value)) == (method != "plain")
    assert isinstance(e.value, ConfigError)


def test_divergence_at_the_last_step_is_seen():
    settings = replace(SETTINGS, learning_rate=1e308, steps=1, momentum=0.0)
    with pytest.raises(Divergence, match="got weights that are not finite after step 1"):
        run(Quadratic(START * 1e3), quadratic_loss(MATRIX, SLOPE), same_rows(), settings)


def test_a_loss_that_is_not_finite_at_the_start_is_the_datas_fault():
    points = blobs(1, 20)
    points.x[3] = math.nan
    with pytest.raises(DataError, match="expected a finite loss at the trained weights, got nan"):
        run(mlp(0, [4, 6, 3]), nll, points, replace(SETTINGS, batch_rows=20))


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="expected clean validation rows to descend on, got none"):
        run(Quadratic(START), quadratic_loss(MATRIX, SLOPE), same_rows(0), SETTINGS)


def test_a_mean_in_place_of_losses_is_refused():
    with pytest.raises(TaskError, match=r"expected losses of shape \[4\], got \[\]: return one value a row"):
        run(mlp(0, [4, 6, 3]), lambda m, b: nll(m, b).mean(), blobs(1, 20), SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sma"}, "expected method to be one of plain, sam, asam, lpf, got 'sma'"),
        ({"optimizer": "adam"}, "expected optimizer to be one of sgd, adamw, got 'adam'"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"batch_rows": 0}, "expected batch_rows of at least 1, got 0"),
        ({"noise_parts": 0}, "expected noise_parts of at least 1, got 0"),
        ({"strength": -0.1}, "expected a finite strength of at least 0, got -0.1"),
        ({"strength": math.nan}, "expected a finite strength of at least 0, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SETTINGS, **change)


def test_mean_loss_does_not_depend_on_the_batch_size():
    model, points = mlp(0, [4, 6, 3]), blobs(1, 23)
    whole = float(nll(model, points.batch(range(23))).detach().mean())
    for size in (1, 5, 23, 100):
        assert mean_loss(model, nll, points, size) == pytest.approx(whole, rel=1e-12)
