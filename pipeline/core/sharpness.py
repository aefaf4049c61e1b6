"""How sharp a minimum is, measured in three ways on the full set of rows.

With L the mean loss of the rows (nats) and w the trainable parameters:

* `sam_rise`: L(w + rho g / |g|) - L(w), g = dL/dw over the full set: the loss rise in the SAM ball, to first order.
* `filter_noise_rise`: E[L(w + tau)] - L(w) under the filter-wise noise of `pipeline.core.perturbation`.
* `top_eigenvalue`: the largest (algebraic) eigenvalue of the Hessian of L, by Lanczos with full reorthogonalisation.

The model is in eval mode meanwhile (BatchNorm on its running statistics, dropout off); weights and modes are as before
afterwards. Sums over rows are in float64, over batches of at most `batch_rows` rows. Attention runs on the plain
mathematical kernels, the only ones that can be differentiated twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.core.capture.engine import Loss
from pipeline.core.factors import precise
from pipeline.core.perturbation import along_gradient, filter_noise, moved, stream, trainable
from pipeline.core.rows import Rows, batches, eval_mode, losses_of, mean_loss
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Rise:
    """A mean loss rise in nats over random draws.

    Attributes:
        mean: mean over the draws.
        standard_error: standard error of the mean.
    """

    mean: float
    standard_error: float


@dataclass(frozen=True)
class Eigenvalue:
    """A Ritz value of the Hessian.

    Attributes:
        value: the largest Ritz value; never above the largest eigenvalue (up to rounding).
        residual: |H v - value v| for its unit vector v: an eigenvalue lies within this distance of `value`.
        iterations: Hessian-vector products spent.
    """

    value: float
    residual: float
    iterations: int


def sam_rise(model: nn.Module, loss: Loss, rows: Rows, rho: float, batch_rows: int = 256) -> float:
    """The loss rise, in nats, after a step of length rho along the gradient of the full set."""
    parameters = trainable(model)
    with _measuring(model):
        before = mean_loss(model, loss, rows, batch_rows)
        gradient = _gradient(model, loss, rows, parameters, batch_rows)
        with moved(parameters, along_gradient(gradient, rho)):
            return mean_loss(model, loss, rows, batch_rows) - before


def filter_noise_rise(
    model: nn.Module, loss: Loss, rows: Rows, gamma: float, draws: int, seed: int, batch_rows: int = 256
) -> Rise:
    """The mean loss rise under filter-wise Gaussian noise.

    Args:
        model: at the weights in question.
        loss: per-sample loss.
        rows: what the loss is averaged over.
        gamma: standard deviation of an element over the norm of its filter.
        draws: number of noise draws, at least 2; every draw sees all rows.
        seed: draw d depends on (seed, d) alone, so that two checkpoints are compared under the same draws.
        batch_rows: most rows at once.

    Raises:
        ConfigError: fewer than two draws.
    """
    if draws < 2:
        raise ConfigError(f"expected at least 2 noise draws, got {draws}: the standard error needs two; raise it")
    parameters = trainable(model)
    rises = []
    with _measuring(model):
        before = mean_loss(model, loss, rows, batch_rows)
        for draw in range(draws):
            with moved(parameters, filter_noise(parameters, gamma, stream(seed, "sharpness noise", draw))):
                rises.append(mean_loss(model, loss, rows, batch_rows) - before)
    values = torch.tensor(rises, dtype=torch.float64)
    return Rise(float(values.mean()), float(values.std()) / math.sqrt(draws))


def top_eigenvalue(
    model: nn.Module, loss: Loss, rows: Rows, iterations: int, tolerance: float, seed: int, batch_rows: int = 256
) -> Eigenvalue:
    """The largest eigenvalue of the Hessian of the mean loss.

    Lanczos on Hessian-vector products, from a random start; every new vector is orthogonalised twice against all before
    it, so that no ghost copies appear. Memory: iterations x P numbers in float64.

    Args:
        model: at the weights in question; twice differentiable almost everywhere.
        loss: per-sample loss.
        rows: what the loss is averaged over.
        iterations: most Hessian-vector products.
        tolerance: stop when the residual is at most this share of |value|.
        seed: of the start vector.
        batch_rows: most rows at once.

    Raises:
        ConfigError: fewer than one iteration.
    """
    if iterations < 1:
        raise ConfigError(f"expected at least 1 Lanczos iteration, got {iterations}: raise it")
    parameters = trainable(model)
    size = sum(p.numel() for p in parameters)
    start = torch.randn(size, generator=stream(seed, "lanczos"), dtype=torch.float64)
    basis, diagonal, off = [start / start.norm()], [], []
    with _measuring(model):
        while True:
            image = hessian_product(model, loss, rows, basis[-1], batch_rows)
            diagonal.append(float(image @ basis[-1]))
            for _ in range(2):  # once leaves rounding in, twice is enough (Kahan and Parlett)
                for vector in basis:
                    image -= (image @ vector) * vector
            off.append(float(image.norm()))
            value, last = _largest_ritz(diagonal, off)
            residual = off[-1] * last
            # A zero remainder means that the basis spans an invariant space: nothing is left to add.
            done = residual <= tolerance * abs(value) or off[-1] <= 1e-14 * max(map(abs, diagonal + off))
            if done or len(basis) == min(iterations, size):
                return Eigenvalue(value, residual, len(basis))
            basis.append(image / off[-1])


def hessian_product(model: nn.Module, loss: Loss, rows: Rows, vector: Tensor, batch_rows: int = 256) -> Tensor:
    """H v for the Hessian H of the mean loss over the trainable parameters: [P] to [P], in float64 on the CPU.

    Modes are not touched: call it in eval mode.
    """
    parameters = trainable(model)
    pieces = vector.split([p.numel() for p in parameters])
    directions = [piece.reshape(p.shape).to(p) for piece, p in zip(pieces, parameters, strict=True)]
    total = torch.zeros_like(vector)
    for number, (batch, count) in enumerate(batches(rows, batch_rows)):
        with differentiable_attention(), torch.enable_grad():
            value = losses_of(model, loss, batch, count, number).sum() / len(rows)
            total += _flat(_product(value, parameters, directions))
    return total


def _product(value: Tensor, parameters: Sequence[Tensor], directions: Sequence[Tensor]) -> Sequence[Tensor]:
    """The gradient of <d value / d parameters, directions>."""
    gradients = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
    if not isinstance(slope, Tensor) or not slope.requires_grad:  # a loss that is linear in the parameters
        return [torch.zeros_like(p) for p in parameters]
    return torch.autograd.grad(slope, parameters, materialize_grads=True)


def _largest_ritz(diagonal: list[float], off: list[float]) -> tuple[float, float]:
    """The largest eigenvalue of the tridiagonal matrix, and the size of the last entry of its unit eigenvector."""
    inner = torch.tensor(off[:-1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(inner, 1) + torch.diag(inner, -1)
    values, vectors = torch.linalg.eigh(matrix)
    return float(values[-1]), abs(float(vectors[-1, -1]))


def _gradient(model: nn.Module, loss: Loss, rows: Rows, parameters: Sequence[Tensor], batch_rows: int) -> list[Tensor]:
    """The gradient of the mean loss of all rows, in float64 where the device has it, shaped like `parameters`."""
    total = [precise(torch.zeros_like(p)) for p in parameters]
    for number, (batch, count) in enumerate(batches(rows, batch_rows)):
        with torch.enable_grad():
            value = losses_of(model, loss, batch, count, number).sum() / len(rows)
            gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        for sum_, gradient in zip(total, gradients, strict=True):
            sum_ += gradient
    return total


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().reshape(-1).cpu().double() for t in tensors])


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    """Eval mode and twice differentiable attention for all of a measurement, so that both losses of a rise agree."""
    with eval_mode(model), differentiable_attention():
        yield


@contextmanager
def differentiable_attention() -> Iterator[Any]:
    """Within the context attention can be differentiated twice, which its fast kernels cannot."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
