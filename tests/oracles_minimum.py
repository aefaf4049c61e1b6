"""Small problems for the descent and for sharpness, and slow answers that are obviously right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class Points:
    """Inputs x [N, D] and targets y [N]; notes which rows were read with gradients on, and which with them off."""

    x: Tensor
    y: Tensor
    fitted: set[int] = field(default_factory=set)
    judged: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.x)

    def batch(self, indices: Sequence[int]) -> Any:
        (self.fitted if torch.is_grad_enabled() else self.judged).update(indices)
        chosen = torch.tensor(list(indices))
        return self.x[chosen], self.y[chosen]


class Quadratic(nn.Module):
    """Weights [P] whose loss on every row is .5 w'Aw + b'w; the Hessian is A."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(start.clone())


def quadratic_loss(matrix: Tensor, slope: Tensor) -> Any:
    """The loss of a `Quadratic`, the same on every row."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        w = model.weight
        return (0.5 * w @ matrix @ w + slope @ w).expand(len(batch[0]))

    return loss


def nll(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy a row."""
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def mlp(seed: int, sizes: Sequence[int], activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    """A float64 network, initialised by its own seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for first, second in pairwise(sizes):
            layers += [nn.Linear(first, second), activation()]
        return nn.Sequential(*layers[:-1]).double()


def blobs(seed: int, count: int, classes: int = 3, width: int = 4, spread: float = 1.0) -> Points:
    """Gaussian classes in `width` dimensions, float64."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    y = torch.arange(count) % classes
    x = centres[y] + spread * torch.randn(count, width, generator=generator, dtype=torch.float64)
    return Points(x, y)


def weights(model: nn.Module) -> Tensor:
    """All parameters in one vector [P], copied."""
    return torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])


def dense_hessian(model: nn.Module, points: Points) -> Tensor:
    """The Hessian [P, P] of the mean cross-entropy, by `torch.autograd.functional`."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def mean(vector: Tensor) -> Tensor:
        pieces = [piece.reshape(shape) for piece, shape in zip(vector.split(sizes), shapes, strict=True)]
        logits = torch.func.functional_call(model, dict(zip(names, pieces, strict=True)), (points.x,))
        return nn.functional.cross_entropy(logits, points.y)

    return torch.autograd.functional.hessian(mean, weights(model))
