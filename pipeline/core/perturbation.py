r"""Gradients taken at perturbed weights: what makes a descent prefer flat minima.

For weights w, a batch whose mean loss is L, g = dL/dw and strength s (rho or gamma):

* plain:   dL(w)
* SAM:     dL(w + rho g / |g|), the norm over all trainable parameters jointly (Foret et al. 2021)
* ASAM:    dL(w + rho w^2 g / | |w| g |), elementwise products (Kwon et al. 2021)
* LPF-SGD: sum over the M parts of the batch of dL_m(w + tau_m), tau_m ~ N(0, Sigma_t) (Bisla et al. 2022). An element
  of filter i (row i of a parameter with two or more axes) has standard deviation gamma_t |w_i|; an element of a
  vector b, gamma_t |b|. gamma_t = gamma (1 + (alpha - 1) (1 - cos(pi t / T)) / 2) rises from gamma to alpha gamma.

The deviation is per element, so a filter of n weights moves by about gamma sqrt(n) |w_i|. Weights are copied before a
perturbation and copied back, never added to and subtracted from: they are restored bit by bit.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.core.factors import precise
from pipeline.errors import TaskError

TINY = 1e-12  # added to the norm of a gradient, as in the public SAM code: a zero gradient gives a zero step

PartLoss = Callable[[], Tensor]
"""The summed loss of a part of a batch over the size of the whole batch: the parts add up to the batch's mean."""


def stream(seed: int, *purpose: object) -> torch.Generator:
    """A generator that depends on `seed` and `purpose` alone; on the CPU, so that every device sees the same draws."""
    digest = hashlib.blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def trainable(model: nn.Module) -> list[Tensor]:
    """The parameters that require a gradient, tied ones once.

    Raises:
        TaskError: there is none.
    """
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise TaskError("expected a model with a parameter that requires a gradient, got none: unfreeze some of it")
    return parameters


@contextmanager
def moved(parameters: Sequence[Tensor], offsets: Sequence[Tensor]) -> Iterator[None]:
    """Within the context, `parameters` are moved by `offsets`; after it they are what they were, bit by bit."""
    kept = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for parameter, offset in zip(parameters, offsets, strict=True):
                parameter.add_(offset.to(parameter))
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)


def joint_norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all tensors together, in float64 where their device has it."""
    return math.sqrt(sum(float(precise(t.detach()).square().sum()) for t in tensors))


def along_gradient(gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """SAM's ascent step rho g / (|g| + 1e-12)."""
    scale = rho / (joint_norm(gradients) + TINY)
    return [scale * g for g in gradients]


def along_scaled_gradient(parameters: Sequence[Tensor], gradients: Sequence[Tensor], rho: float) -> list[Tensor]:
    """ASAM's ascent step rho w^2 g / (| |w| g | + 1e-12)."""
    scaled = [p.detach().abs() * g for p, g in zip(parameters, gradients, strict=True)]
    scale = rho / (joint_norm(scaled) + TINY)
    return [scale * p.detach().abs() * s for p, s in zip(parameters, scaled, strict=True)]


def filter_noise(parameters: Sequence[Tensor], gamma: float, generator: torch.Generator) -> list[Tensor]:
    """Gaussian noise whose standard deviation per element is gamma times the norm of the element's filter."""
    noise = []
    for parameter in parameters:
        unit = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        noise.append((gamma * filter_norms(parameter)) * unit.to(parameter))
    return noise


def filter_norms(parameter: Tensor) -> Tensor:
    """The norms of the rows of a parameter [O, ...], as [O, 1, ...]; of a vector or scalar its one norm, []."""
    value = parameter.detach()
    if value.dim() < 2:
        return torch.linalg.vector_norm(value)
    return torch.linalg.vector_norm(value.flatten(1), dim=1).reshape(-1, *[1] * (value.dim() - 1))


class Strategy(ABC):
    """Fills the gradients of the parameters for one step of a descent."""

    parts: int
    """How many parts a batch is split into."""

    @abstractmethod
    def backward(self, parameters: Sequence[Tensor], parts: Sequence[PartLoss], step: int, steps: int) -> float:
        """Leave the gradients of one step in `.grad`; the parameters themselves are unchanged on return.

        Args:
            parameters: what is trained; their `.grad` is None on entry and stays None where the loss does not use them.
            parts: the losses of the batch's parts.
            step: 0 to steps - 1.
            steps: length of the descent.

        Returns:
            The batch's mean loss: at w for plain, SAM and ASAM, under the noise for LPF-SGD.
        """


@dataclass(frozen=True)
class Plain(Strategy):
    """Ordinary gradients (the VM of the FVM paper)."""

    parts = 1

    def backward(self, parameters: Sequence[Tensor], parts: Sequence[PartLoss], step: int, steps: int) -> float:
        """See `Strategy.backward`."""
        return _backward(parts)


@dataclass(frozen=True)
class Sam(Strategy):
    """Gradients at the worst point of a ball of radius rho, to first order."""

    rho: float
    parts = 1

    def backward(self, parameters: Sequence[Tensor], parts: Sequence[PartLoss], step: int, steps: int) -> float:
        """See `Strategy.backward`; two passes."""
        value = _backward(parts)
        used = [p for p in parameters if p.grad is not None]
        offsets = self._ascent(used, [p.grad for p in used if p.grad is not None])
        for parameter in used:
            parameter.grad = None
        with moved(used, offsets):
            _backward(parts)
        return value

    def _ascent(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return along_gradient(gradients, self.rho)


@dataclass(frozen=True)
class Asam(Sam):
    """SAM in a ball that scales with each weight."""

    def _ascent(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        return along_scaled_gradient(parameters, gradients, self.rho)


@dataclass(frozen=True)
class Lpf(Strategy):
    """Gradients averaged under filter-wise Gaussian noise, one draw a part of the batch.

    Attributes:
        gamma: gamma at the first step.
        growth: alpha; 1 keeps gamma fixed.
        parts: M.
        seed: the noise of a step depends on (seed, step, part) alone.
    """

    gamma: float
    growth: float
    parts: int
    seed: int

    def backward(self, parameters: Sequence[Tensor], parts: Sequence[PartLoss], step: int, steps: int) -> float:
        """See `Strategy.backward`; one pass over each part."""
        gamma = self.gamma * (1 + (self.growth - 1) * (1 - math.cos(math.pi * step / steps)) / 2)
        value = 0.0
        for number, part in enumerate(parts):
            noise = filter_noise(parameters, gamma, stream(self.seed, "flatten noise", step, number))
            with moved(parameters, noise):
                value += _backward([part])
        return value


def _backward(parts: Sequence[PartLoss]) -> float:
    """Add the gradients of all parts to `.grad` and return the sum of their losses."""
    value = 0.0
    for part in parts:
        loss = part()
        loss.backward()
        value += float(loss.detach())
    return value
