"""Perturbed gradients against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.core.perturbation import (
    Asam,
    Lpf,
    Plain,
    Sam,
    filter_noise,
    filter_norms,
    joint_norm,
    moved,
    stream,
    trainable,
)
from pipeline.errors import TaskError

MATRIX = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
START = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def quadratic():
    """Two parameters of one vector w, and the loss .5 w'Aw: the joint norm differs from the norms one by one."""
    first, second = nn.Parameter(START[:1].clone()), nn.Parameter(START[1:].clone())
    return [first, second], lambda: 0.5 * (w := torch.cat([first, second])) @ MATRIX @ w


def gradient_of(strategy, step=0, steps=10, parts=1):
    parameters, loss = quadratic()
    value = strategy.backward(parameters, [lambda: loss() / parts] * parts, step, steps)
    assert torch.equal(torch.cat([p.detach() for p in parameters]), START), "weights must be restored bit by bit"
    return torch.cat([p.grad for p in parameters]), value


def test_plain_is_the_gradient():
    gradient, value = gradient_of(Plain())
    assert torch.allclose(gradient, MATRIX @ START)
    assert value == pytest.approx(float(0.5 * START @ MATRIX @ START))


def test_sam_on_a_quadratic():
    g = MATRIX @ START
    gradient, value = gradient_of(Sam(0.3))
    assert torch.allclose(gradient, MATRIX @ (START + 0.3 * g / g.norm()), rtol=1e-10)
    assert value == pytest.approx(float(0.5 * START @ MATRIX @ START))


def test_asam_on_a_quadratic():
    g = MATRIX @ START
    step = 2.0 * START**2 * g / (START.abs() * g).norm()
    assert torch.allclose(gradient_of(Asam(2.0))[0], MATRIX @ (START + step), rtol=1e-10)


@pytest.mark.parametrize("strategy", [Sam(0.0), Asam(0.0), Lpf(0.0, 1.0, seed=0, parts=2)])
def test_strength_zero_is_plain(strategy):
    assert torch.allclose(gradient_of(strategy, parts=strategy.parts)[0], MATRIX @ START)


def test_a_zero_gradient_gives_a_zero_step():
    weight = nn.Parameter(torch.zeros(3))
    Sam(0.5).backward([weight], [lambda: (weight**2).sum()], 0, 1)
    assert torch.equal(weight.grad, torch.zeros(3))


def test_lpf_averages_to_the_gradient_of_a_quadratic_and_spreads_as_stated():
    draws = torch.stack([gradient_of(Lpf(0.1, 1.0, seed=s, parts=1))[0] for s in range(2000)])
    # gradient = A (w + tau): mean A w, covariance A diag(sigma^2) A
    sigma = 0.1 * torch.tensor([START[:1].norm(), START[1:].norm(), START[1:].norm()], dtype=torch.float64)
    spread = (MATRIX**2 @ sigma**2).sqrt()
    assert ((draws.mean(0) - MATRIX @ START).abs() < 4 * spread / 2000**0.5).all()
    assert torch.allclose(draws.std(0), spread, rtol=0.07)


def test_lpf_draws_afresh_for_each_part_and_step():
    one = gradient_of(Lpf(0.1, 1.0, seed=0, parts=1))[0]
    assert torch.equal(one, gradient_of(Lpf(0.1, 1.0, seed=0, parts=1))[0])
    assert not torch.allclose(one, gradient_of(Lpf(0.1, 1.0, seed=0, parts=2), parts=2)[0])
    assert not torch.allclose(one, gradient_of(Lpf(0.1, 1.0, seed=0, parts=1), step=1)[0])


def test_lpf_noise_grows_from_gamma_to_alpha_gamma():
    clean = MATRIX @ START
    for step, factor in [(0, 1.0), (5, 3.0), (10, 5.0)]:  # gamma (1 + (5 - 1) (1 - cos(pi t / 10)) / 2)
        grown = gradient_of(Lpf(0.1, 5.0, seed=0, parts=1), step=step)[0] - clean
        fixed = gradient_of(Lpf(0.1, 1.0, seed=0, parts=1), step=step)[0] - clean
        assert torch.allclose(grown, factor * fixed, rtol=1e-9)


def test_an_unused_parameter_keeps_no_gradient():
    used, unused = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    for strategy in (Plain(), Sam(0.1), Asam(0.1), Lpf(0.1, 1.0, seed=0, parts=1)):
        used.grad = None
        strategy.backward([used, unused], [lambda: (used**2).sum()], 0, 1)
        assert unused.grad is None and used.grad is not None


def test_filter_norms_by_row_or_by_vector():
    kernel = torch.arange(24.0).reshape(2, 3, 2, 2)
    assert filter_norms(kernel).shape == (2, 1, 1, 1)
    assert torch.allclose(filter_norms(kernel).flatten(), torch.stack([kernel[0].norm(), kernel[1].norm()]))
    assert torch.equal(filter_norms(torch.tensor([3.0, 4.0])), torch.tensor(5.0))
    assert torch.equal(filter_norms(torch.tensor(-2.0)), torch.tensor(2.0))


def test_filter_noise_scales_with_its_filter():
    weight = torch.stack([torch.full((5000,), 1.0), torch.full((5000,), 10.0)])
    (noise,) = filter_noise([weight], 0.1, stream(0, "test"))
    assert torch.allclose(noise.std(dim=1), 0.1 * weight.norm(dim=1), rtol=0.05)


def test_joint_norm_is_over_everything():
    assert joint_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]) == pytest.approx(5.0)


def test_moved_restores_after_an_error():
    weight = nn.Parameter(torch.tensor([0.1, 1e-8]))
    before = weight.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), moved([weight], [torch.full((2,), 1e6)]):
        assert float(weight.detach()[0]) > 1e5
        raise RuntimeError("inside")
    assert torch.equal(weight.detach(), before)


def test_streams_depend_on_seed_and_purpose_alone():
    def draw(*key):
        return torch.rand(4, generator=stream(*key))

    torch.manual_seed(1)
    first = draw(0, "a", 1)
    torch.manual_seed(2)
    assert torch.equal(first, draw(0, "a", 1))
    assert not any(torch.equal(first, draw(*key)) for key in [(1, "a", 1), (0, "b", 1), (0, "a", 2)])


def test_a_wholly_frozen_model_is_refused():
    with pytest.raises(TaskError, match="expected a model with a parameter that requires a gradient, got none"):
        trainable(nn.Linear(2, 2).requires_grad_(False))
