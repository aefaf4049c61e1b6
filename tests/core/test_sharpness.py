"""Sharpness against closed forms and dense Hessians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pipeline.core.sharpness import filter_noise_rise, hessian_product, sam_rise, top_eigenvalue
from pipeline.errors import ConfigError
from tests.oracles_minimum import Points, Quadratic, blobs, dense_hessian, mlp, nll, quadratic_loss, weights

EIGENVALUES = torch.tensor([9.0, 4.0, 4.0, 0.5, 0.0, -20.0], dtype=torch.float64)
BASIS = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
MATRIX = BASIS @ torch.diag(EIGENVALUES) @ BASIS.T
SLOPE = torch.linspace(-1, 1, 6, dtype=torch.float64)
START = torch.linspace(0.5, 2, 6, dtype=torch.float64)
ROWS = Points(torch.zeros(7, 1), torch.zeros(7, dtype=torch.long))


def test_sam_rise_on_a_quadratic():
    g = MATRIX @ START + SLOPE
    step = 0.3 * g / g.norm()
    expected = float(g @ step + 0.5 * step @ MATRIX @ step)
    assert sam_rise(Quadratic(START), quadratic_loss(MATRIX, SLOPE), ROWS, 0.3) == pytest.approx(expected, rel=1e-9)


def test_filter_noise_rise_on_a_quadratic():
    rise = filter_noise_rise(Quadratic(START), quadratic_loss(MATRIX, SLOPE), ROWS, 0.1, 3000, 0)
    expected = 0.5 * float(MATRIX.trace()) * (0.1 * float(START.norm())) ** 2
    sigma = 0.1 * float(START.norm())
    # Var(g'tau + .5 tau'A tau) = sigma^2 |g|^2 + .5 sigma^4 tr(A^2)
    g = MATRIX @ START + SLOPE
    spread = math.sqrt(sigma**2 * float(g @ g) + 0.5 * sigma**4 * float((MATRIX @ MATRIX).trace()))
    assert abs(rise.mean - expected) < 4 * spread / math.sqrt(3000)
    assert rise.standard_error == pytest.approx(spread / math.sqrt(3000), rel=0.1)


def test_top_eigenvalue_of_a_known_hessian():
    # The largest in size is -20: "top" is algebraic. Two equal eigenvalues leave five steps to take.
    found = top_eigenvalue(Quadratic(START), quadratic_loss(MATRIX, SLOPE), ROWS, 50, 1e-10, 3)
    assert found.value == pytest.approx(9.0, rel=1e-9)
    assert found.residual <= 1e-8 and found.iterations <= 6


def test_too_few_iterations_leave_an_honest_residual():
    for iterations in (1, 2, 3, 4):
        found = top_eigenvalue(Quadratic(START), quadratic_loss(MATRIX, SLOPE), ROWS, iterations, 1e-12, 3)
        assert found.iterations == iterations and found.value < 9.0
        assert float((EIGENVALUES - found.value).abs().min()) <= found.residual + 1e-9


def test_a_loss_without_curvature_has_eigenvalue_zero():
    found = top_eigenvalue(Quadratic(START), quadratic_loss(torch.zeros_like(MATRIX), SLOPE), ROWS, 10, 1e-3, 0)
    assert (found.value, found.residual, found.iterations) == (0.0, 0.0, 1)


def test_products_and_top_eigenvalue_against_the_dense_hessian_of_a_network():
    model, points = mlp(0, [4, 5, 3]), blobs(1, 30)
    dense = dense_hessian(model, points)
    v = torch.randn(len(dense), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for batch_rows in (7, 30):
        assert torch.allclose(hessian_product(model, nll, points, v, batch_rows), dense @ v, atol=1e-12)
        found = top_eigenvalue(model, nll, points, len(dense), 1e-9, 0, batch_rows)
        assert found.value == pytest.approx(float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-7)


def test_batch_size_does_not_matter_to_the_rises():
    model, points = mlp(0, [4, 5, 3]), blobs(1, 30)
    for measure in (
        lambda size: sam_rise(model, nll, points, 0.1, size),
        lambda size: filter_noise_rise(model, nll, points, 0.1, 3, 0, size).mean,
    ):
        assert measure(7) == pytest.approx(measure(30), rel=1e-10)


def test_a_loss_that_draws_numbers_is_measured_under_the_same_draws():
    def loss(model, batch):
        x = batch[0] + 3 * torch.randn(batch[0].shape, dtype=torch.float64)
        return nn.functional.cross_entropy(model(x), batch[1], reduction="none")

    model, points = mlp(0, [4, 5, 3]), blobs(1, 30)
    assert sam_rise(model, loss, points, 0.0, 7) == 0.0
    assert 0 < sam_rise(model, loss, points, 1e-4, 7) < 1e-3
    assert top_eigenvalue(model, loss, points, 43, 1e-8, 0).residual < 1e-6


class Attention(nn.Module):
    """One transformer layer in train mode with dropout, and a BatchNorm: all that eval mode must silence."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.norm(self.layer(x[:, None, :].expand(-1, 3, -1)).mean(1)))


def test_attention_dropout_and_batchnorm_are_measured_in_eval_mode_and_left_as_they_were():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Attention().double()
    points = blobs(1, 20)
    model.layer.eval()
    state, before, random = {k: v.clone() for k, v in model.state_dict().items()}, weights(model), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    fast = torch.backends.mha.get_fastpath_enabled()
    found = top_eigenvalue(model, nll, points, 200, 1e-8, 0)
    rises = [sam_rise(model, nll, points, 0.1), filter_noise_rise(model, nll, points, 0.02, 2, 0).mean]
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert torch.equal(weights(model), before) and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random) and torch.backends.mha.get_fastpath_enabled() == fast
    model.eval()
    assert rises == [sam_rise(model, nll, points, 0.1), filter_noise_rise(model, nll, points, 0.02, 2, 0).mean]
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            top = float(torch.linalg.eigvalsh(dense_hessian(model, points))[-1])
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    assert found.value == pytest.approx(top, rel=1e-6)


def test_frozen_parameters_are_not_moved():
    model, points = mlp(0, [4, 5, 3]), blobs(1, 30)
    dense = dense_hessian(model, points)[:25, :25]
    model[2].requires_grad_(False)
    assert top_eigenvalue(model, nll, points, 25, 1e-9, 0).value == pytest.approx(
        float(torch.linalg.eigvalsh(dense)[-1]), rel=1e-7
    )


def test_bad_budgets_are_refused():
    model, loss = Quadratic(START), quadratic_loss(MATRIX, SLOPE)
    with pytest.raises(ConfigError, match="expected at least 2 noise draws, got 1"):
        filter_noise_rise(model, loss, ROWS, 0.1, 1, 0)
    with pytest.raises(ConfigError, match="expected at least 1 Lanczos iteration, got 0"):
        top_eigenvalue(model, loss, ROWS, 0, 1e-3, 0)
