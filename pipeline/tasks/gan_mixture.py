"""The task `gan_mixture`: points of a mixture of Gaussians on a ring, in two dimensions, learnt by a small GAN.

The figure of merit is the mean log-likelihood of validation (or query) rows under a kernel density of the samples.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.core.merit import log_likelihood
from pipeline.tasks.base import Batch, Shown
from pipeline.tasks.gan import Gan, joint
from pipeline.tasks.noise import stream
from pipeline.tasks.options import one_of, positive, share, whole

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
}
WIDTHS = (64, 32)
JUNK_REACH = 4.0
"""Junk lies anywhere in a square of this half side."""


class GanMixture(Gan):
    """Two networks of widths 64 and 32, as Terashita et al. (2021) have them, on 2-D points.

    Options:
        train_size, validation_size, query_size: rows of each split.
        modes: of the mixture, on a ring of radius 2, each of standard deviation .3.
        junk: share of the train rows that lie anywhere instead.
        bandwidth: of the kernel density.
        epochs, batch_rows, rate: of the joint training; rate of both players.
        descent: adam (betas .5 and .999) or sgd.
        order: simultaneous or alternating.
        activation: silu, tanh or leaky_relu.
        seed: of the rows.
    """

    latent_size = 10
    judged_samples = 2000

    def __init__(
        self,
        train_size: int = 1000,
        validation_size: int = 1000,
        query_size: int = 1000,
        modes: int = 5,
        junk: float = 0.0,
        bandwidth: float = 0.5,
        epochs: int = 50,
        batch_rows: int = 100,
        rate: float = 1e-3,
        descent: str = "adam",
        order: str = "simultaneous",
        activation: str = "silu",
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        self.joint = joint(epochs, batch_rows, rate, descent, order)
        self.seed, self._bandwidth = whole("seed", seed, 0), positive("bandwidth", bandwidth)
        self._activation = ACTIVATIONS[one_of("activation", activation, tuple(ACTIVATIONS))]
        sizes = {"train": train_size, "validation": validation_size, "query": query_size}
        points = {split: self._points(split, whole(f"{split}_size", size), modes) for split, size in sizes.items()}
        self.junk = _spoilt(points["train"], share("junk", junk), self.seed)
        self._rows = {split: TensorDataset(torch.from_numpy(part)) for split, part in points.items()}

    def _points(self, split: str, count: int, modes: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        drawn = stream(self.seed, f"mixture {split}")
        angles = 2 * np.pi * drawn.integers(whole("modes", modes), size=count) / modes
        centres = 2 * np.stack([np.cos(angles), np.sin(angles)], 1)
        return (centres + 0.3 * drawn.standard_normal((count, 2))).astype(np.float32)

    def players(self) -> tuple[nn.Module, nn.Module]:
        """Z-64-32-2 and 2-64-32-1."""
        return _network([self.latent_size, *WIDTHS, 2], self._activation), _network([2, *WIDTHS, 1], self._activation)

    def train_rows(self) -> TensorDataset:
        """Points that are learnt, junk among them."""
        return self._rows["train"]

    def validation_rows(self) -> TensorDataset:
        """Points of the mixture."""
        return self._rows["validation"]

    def query_rows(self) -> TensorDataset:
        """Others."""
        return self._rows["query"]

    def quality(self, samples: Tensor, batch: Batch) -> Tensor:
        """Mean log-likelihood of the rows, nats."""
        return log_likelihood(samples, batch[0], self._bandwidth)

    def show(self, row: tuple[Tensor]) -> Shown:
        """Its coordinates."""
        return Shown(table={name: round(float(value), 3) for name, value in zip("xy", row[0], strict=True)})

    def sources(self) -> str:
        """All follows from the options."""
        return "made by the task"


def _network(widths: list[int], activation: Callable[[], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers[:-1])


def _spoilt(points: np.ndarray[tuple[int, int], np.dtype[np.float32]], part: float, seed: int) -> list[int]:
    """Which rows are junk now, ascending."""
    drawn = stream(seed, "junk")
    chosen = np.sort(drawn.permutation(len(points))[: round(part * len(points))])
    points[chosen] = drawn.uniform(-JUNK_REACH, JUNK_REACH, (len(chosen), 2))
    return [int(row) for row in chosen]
