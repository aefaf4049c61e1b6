"""Influence through joint training against closed forms of a quadratic game, finite differences and dense algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.fixed_point import settled
from pipeline.core.game import Game, Rules, Step, advance, gradients
from pipeline.core.unrolled import replayed, traced

EXACT = torch.float64
ROWS = 6
DAMPED, PULLED = 0.7, 0.4
"""lambda and mu of the quadratic game."""
RATES = (0.2, 0.3)

QUADRATIC = Game(
    frozenset({"d"}),
    real=lambda weights, x: -weights["d"] * x,
    fake=lambda weights, z: weights["d"] * weights["g"] + DAMPED / 2 * weights["d"].square(),
    fool=lambda weights, z: -weights["d"] * weights["g"] + PULLED / 2 * weights["g"].square(),
)
"""min over g, max over d of d (mean x - g) - lambda d^2 / 2, with mu g^2 / 2 on g: at rest g = mean x / (1 + lambda mu)."""

CURVED = Game(
    frozenset({"d", "e"}),
    real=lambda weights, x: torch.nn.functional.softplus(-(torch.tanh(x @ weights["d"]) @ weights["e"])),
    fake=lambda weights, z: torch.nn.functional.softplus(torch.tanh((z @ weights["g"]) @ weights["d"]) @ weights["e"]).mean(),
    fool=lambda weights, z: torch.nn.functional.softplus(-(torch.tanh((z @ weights["g"]) @ weights["d"]) @ weights["e"])).mean(),
)  # fmt: skip
"""A small GAN: two numbers a row, three latents."""


def quadratic_steps(x: Tensor, count: int) -> list[Step]:
    positions = [torch.tensor([t % ROWS, (t + 2) % ROWS, (t + 3) % ROWS]) for t in range(count)]
    return [Step(t + 1, part, torch.full((3,), 1 / 3, dtype=EXACT), x[part], None, RATES)
            for t, part in enumerate(positions)]  # fmt: skip


def curved(seed: int, rules: Rules, count: int = 7) -> tuple[dict, list[Step]]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, 2, dtype=EXACT, generator=draw)
    shapes = {"d": (2, 4), "e": (4,), "g": (3, 2)}
    weights = {name: torch.randn(shape, dtype=EXACT, generator=draw) for name, shape in shapes.items()}
    steps = []
    for t in range(count):
        part = torch.randperm(ROWS, generator=draw)[:4]
        latents = torch.randn(5, 3, dtype=EXACT, generator=draw)
        steps.append(Step(t + 1, part, torch.full((4,), 0.25, dtype=EXACT), x[part], latents, RATES))
    return rules.start(weights), steps


def walked(game: Game, rules: Rules, state: dict, steps: list[Step]) -> tuple[list, dict]:
    """The states before each step, and the end."""
    states = []
    for step in steps:
        states.append(state)
        state = advance(game, rules, step, state, torch.ones_like(step.share))
    return states, state


def influence(game: Game, rules: Rules, start: dict, steps: list[Step], metric) -> Tensor:
    states, end = walked(game, rules, start, steps)
    total = torch.zeros(ROWS, dtype=EXACT)
    slope = torch.func.grad(metric)(end["weights"])
    for step, found in traced(game, rules, reversed(list(zip(states, steps, strict=True))), slope):
        total.index_add_(0, step.positions, found)
    return total


def without_each(game: Game, rules: Rules, start: dict, steps: list[Step], metric, weight: float = 0.0) -> Tensor:
    """What the metric loses when each row counts `weight` instead of 1, over 1 - weight."""
    counts = torch.ones(ROWS + 1, ROWS, dtype=EXACT)
    counts[torch.arange(ROWS), torch.arange(ROWS)] = weight
    found = torch.func.vmap(metric)(replayed(game, rules, start, steps, counts)["weights"])
    return (found[-1] - found[:-1]) / (1 - weight)


def of_g(weights) -> Tensor:
    return weights["g"].square().sum() + weights["g"].sum()


def start_of_quadratic() -> dict:
    return {"weights": {"d": torch.tensor(0.3, dtype=EXACT), "g": torch.tensor(-0.5, dtype=EXACT)}}


def test_in_the_quadratic_game_influence_is_the_closed_form_and_the_counterfactual() -> None:
    x, rules, count = torch.linspace(-1, 2, ROWS, dtype=EXACT), Rules("sgd"), 12
    steps = quadratic_steps(x, count)
    # The state (d, g) moves by A and by the rates times the rows that each batch has.
    a = np.array([[1 - RATES[0] * DAMPED, -RATES[0]], [RATES[1], 1 - RATES[1] * PULLED]])
    expected = np.zeros(ROWS)
    for t, step in enumerate(steps):
        pushed = np.linalg.matrix_power(a, count - 1 - t)[1, 0] * RATES[0] / 3
        for row in step.positions.tolist():
            expected[row] += pushed * float(x[row])
    found = influence(QUADRATIC, rules, start_of_quadratic(), steps, lambda weights: weights["g"])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    left_out = without_each(QUADRATIC, rules, start_of_quadratic(), steps, lambda weights: weights["g"])
    np.testing.assert_allclose(left_out, expected, rtol=1e-10)  # linear: exact for a whole row, too


def test_at_rest_the_quadratic_game_has_the_closed_form() -> None:
    x, rest = torch.linspace(-1, 2, ROWS, dtype=EXACT), 1 + DAMPED * PULLED
    g = x.mean() / rest
    weights = {"d": PULLED * g, "g": g}
    whole = Step(1, torch.arange(ROWS), torch.full((ROWS,), 1 / ROWS, dtype=EXACT), x, None, RATES)
    assert all(abs(float(gradients(QUADRATIC, weights, torch.ones(ROWS), whole, player)[name])) < 1e-15
               for player, name in enumerate("dg"))  # fmt: skip
    slope = {"d": torch.zeros((), dtype=EXACT), "g": torch.ones((), dtype=EXACT)}
    for sizes in ({"d": 0.2, "g": 0.3}, {"d": 0.5, "g": 0.1}):
        tensors = {name: torch.tensor(size, dtype=EXACT) for name, size in sizes.items()}
        found, change = settled(QUADRATIC, weights, whole, slope, tensors, 2000, 0.0)
        # Leaving row i out moves the point of rest by exactly -x_i / (N (1 + lambda mu)).
        np.testing.assert_allclose(found, x / (ROWS * rest), rtol=1e-10)
        assert change < 1e-12


@pytest.mark.parametrize("descent", ["sgd", "adam"])
def test_one_simultaneous_step_says_nothing_on_the_generator_and_an_alternating_one_does(descent: str) -> None:
    start, steps = curved(1, Rules(descent), count=1)
    assert not influence(CURVED, Rules(descent), start, steps, of_g).any()
    if descent == "sgd":  # Adam's first step has the size of the rate whatever the gradient is
        assert influence(CURVED, Rules(descent, "alternating"), start, steps, of_g).abs().max() > 1e-6


@pytest.mark.parametrize("order", ["simultaneous", "alternating"])
@pytest.mark.parametrize("descent", ["sgd", "adam"])
def test_backward_through_the_steps_is_the_derivative_of_the_training(descent: str, order: str) -> None:
    rules = Rules(descent, order, decay=0.01)
    start, steps = curved(2, rules)
    found = influence(CURVED, rules, start, steps, of_g)
    up, down = (without_each(CURVED, rules, start, steps, of_g, weight) for weight in (1 + 1e-6, 1 - 1e-6))
    np.testing.assert_allclose(found, (up + down) / 2, rtol=1e-5, atol=1e-8)
    assert found.abs().min() > 1e-5


def test_a_row_acts_only_where_players_move() -> None:
    start, steps = curved(3, Rules("adam"))
    still = [replace(step, rates=(RATES[0], 0.0)) for step in steps]
    assert not influence(CURVED, Rules("adam"), start, still, of_g).any()  # the generator rests
    of_d = lambda weights: weights["d"].sum()  # noqa: E731
    assert influence(CURVED, Rules("adam"), start, still, of_d).abs().min() > 0
    still = [replace(step, rates=(0.0, RATES[1])) for step in steps]
    assert not influence(CURVED, Rules("adam"), start, still, of_g).any()  # the discriminator does


def test_a_row_that_lies_far_off_is_called_harmful() -> None:
    x = torch.tensor([1.0, 1.1, 0.9, 1.0, 1.05, 9.0], dtype=EXACT)
    steps = quadratic_steps(x, 60)
    near = lambda weights: -(weights["g"] - 1 / (1 + DAMPED * PULLED)).square()  # noqa: E731
    found = influence(QUADRATIC, Rules("sgd"), start_of_quadratic(), steps, near)
    assert int(found.argmin()) == 5 and float(found[5]) < 0
    assert float(without_each(QUADRATIC, Rules("sgd"), start_of_quadratic(), steps, near)[5]) < 0


def test_adams_slope_is_finite_where_a_weight_never_had_a_gradient() -> None:
    rules = Rules("adam")
    start, steps = curved(4, rules)
    start["weights"]["e"] = torch.zeros_like(start["weights"]["e"])  # so that d has no gradient in the first step
    assert torch.isfinite(influence(CURVED, rules, start, steps, of_g)).all()


def test_the_series_is_that_of_dense_algebra_with_every_term_added() -> None:
    start, (step, *_) = curved(5, Rules("sgd"))
    weights, names = start["weights"], list(start["weights"])
    sizes = {name: torch.full_like(value, 0.1 + 0.05 * i) for i, (name, value) in enumerate(weights.items())}

    def field(vector: Tensor, mask: Tensor) -> Tensor:
        parts = vector.split([value.numel() for value in weights.values()])
        at = {name: part.reshape(weights[name].shape) for name, part in zip(names, parts, strict=True)}
        found = {**gradients(CURVED, at, mask, step, 0), **gradients(CURVED, at, mask, step, 1)}
        return torch.cat([found[name].reshape(-1) for name in names])

    vector = torch.cat([weights[name].reshape(-1) for name in names])
    ones = torch.ones(4, dtype=EXACT)
    jacobian, of_rows = torch.func.jacrev(field, argnums=(0, 1))(vector, ones)
    assert not torch.allclose(jacobian, jacobian.T)  # two players: no Hessian
    slope = torch.func.grad(of_g)(weights)
    g, s = (torch.cat([each[name].reshape(-1) for name in names]) for each in (slope, sizes))
    for depth, damping in ((1, 0.0), (9, 0.0), (9, 0.1)):
        step_of = (1 - damping) * torch.eye(len(g), dtype=EXACT) - jacobian.T * s
        u = sum(torch.linalg.matrix_power(step_of, k) @ g for k in range(depth))
        found, _ = settled(CURVED, weights, step, slope, sizes, depth, damping)
        np.testing.assert_allclose(found, -(of_rows.T @ (s * u)), rtol=1e-9, atol=1e-12)


def test_the_series_is_what_as_many_steps_on_all_rows_say_where_nothing_moves() -> None:
    """At a point of rest, K equal steps: the recorded states are one and the same."""
    x, rest = torch.linspace(-1, 2, ROWS, dtype=EXACT), 1 + DAMPED * PULLED
    g = x.mean() / rest
    start = {"weights": {"d": PULLED * g, "g": g}}
    whole = Step(1, torch.arange(ROWS), torch.full((ROWS,), 1 / ROWS, dtype=EXACT), x, None, RATES)
    through = influence(QUADRATIC, Rules("sgd"), start, [whole] * 8, of_g)
    sizes = dict(zip("dg", (torch.tensor(rate, dtype=EXACT) for rate in RATES), strict=True))
    slope = torch.func.grad(of_g)(start["weights"])
    np.testing.assert_allclose(
        settled(QUADRATIC, start["weights"], whole, slope, sizes, 8, 0.0)[0], through, rtol=1e-10
    )
