"""The task `gan_digits`: digits of 8 x 8 pixels learnt by a small GAN, whose samples a small classifier judges.

The classifier is fitted on the clean train images and their labels, once, under a fixed seed. The figure of merit is
the logarithm of the Inception score, with it in Inception's place, or minus the Frechet distance of its features.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.core.game import Weights
from pipeline.core.merit import closeness, log_inception_score
from pipeline.tasks.base import Batch
from pipeline.tasks.classification import split_rows
from pipeline.tasks.gan import Gan, joint
from pipeline.tasks.noise import stream
from pipeline.tasks.options import one_of, share, whole

SIDE = 8
FEATURES = 32
FITTING_STEPS = 300


class GanDigits(Gan):
    """Two networks of widths 128 and 64 on scikit-learn's digits, from -1 to 1.

    Options:
        train_size, validation_size: rows; all that are left are queries.
        junk: share of the train images whose pixels are shuffled, each in an order of its own.
        figure: inception (logarithm of the score, nats) or frechet (minus the distance).
        epochs, batch_rows, rate: of the joint training; rate of both players.
        descent: adam (betas .5 and .999) or sgd.
        order: simultaneous or alternating.
        seed: of the split.
    """

    latent_size = 16

    def __init__(
        self,
        train_size: int = 1000,
        validation_size: int = 300,
        junk: float = 0.0,
        figure: str = "inception",
        epochs: int = 100,
        batch_rows: int = 100,
        rate: float = 1e-3,
        descent: str = "adam",
        order: str = "simultaneous",
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        self.joint = joint(epochs, batch_rows, rate, descent, order)
        self.seed, self._figure = whole("seed", seed, 0), one_of("figure", figure, ("inception", "frechet"))
        images, labels = _digits()
        sizes = [whole("train_size", train_size, 2), whole("validation_size", validation_size), None]
        parts = dict(zip(("train", "validation", "query"), split_rows(len(images), sizes, seed), strict=True))
        clean = {split: images[positions] for split, positions in parts.items()}
        self._known = clean["train"].flatten(1), labels[parts["train"]]
        self.junk, spoilt = _shuffled(clean["train"], share("junk", junk), seed)
        self._rows = {split: TensorDataset(part) for split, part in {**clean, "train": spoilt}.items()}
        self._classifiers: dict[torch.dtype, nn.Sequential] = {}

    def players(self) -> tuple[nn.Module, nn.Module]:
        """Z-64-128-64 with tanh at the end, and 64-128-64-1."""
        pixels = SIDE * SIDE
        generator = nn.Sequential(
            nn.Linear(self.latent_size, 64), nn.SiLU(), nn.Linear(64, 128), nn.SiLU(), nn.Linear(128, pixels), nn.Tanh()
        )
        discriminator = nn.Sequential(
            nn.Linear(pixels, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 1)
        )
        return generator, discriminator

    def train_rows(self) -> TensorDataset:
        """Images that are learnt, junk among them."""
        return self._rows["train"]

    def validation_rows(self) -> TensorDataset:
        """Digits."""
        return self._rows["validation"]

    def query_rows(self) -> TensorDataset:
        """Others."""
        return self._rows["query"]

    def inputs(self, batch: Batch) -> Tensor:
        """Pixels as one vector, [B, 64]."""
        pixels: Tensor = batch[0].flatten(1)
        return pixels

    def judge(self, model: nn.Module, split: str) -> Callable[[Weights], Tensor]:
        """As any GAN's, with a classifier that is fitted before: within a transform of `torch.func` none can be."""
        for dtype in (torch.float32, torch.float64):
            self._classifier(dtype)
        return super().judge(model, split)

    def quality(self, samples: Tensor, batch: Batch) -> Tensor:
        """By the classifier; the Inception score looks at no rows."""
        classifier = self._classifier(samples.dtype)
        if self._figure == "inception":
            return log_inception_score(classifier(samples))
        return closeness(classifier[:2](samples), classifier[:2](self.inputs(batch)))

    def _classifier(self, dtype: torch.dtype) -> nn.Sequential:
        if dtype not in self._classifiers:
            self._classifiers[dtype] = _fitted(*self._known).to(dtype)
        return self._classifiers[dtype]

    def sources(self) -> str:
        """All follows from the options."""
        return "made by the task"


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 8, 8] from -1 to 1, and labels."""
    data = load_digits()
    return torch.from_numpy(data.images.astype(np.float32) / 8 - 1), torch.from_numpy(data.target)


def _shuffled(images: Tensor, part: float, seed: int) -> tuple[list[int], Tensor]:
    """Which images are junk, and all of them with these spoilt."""
    drawn = stream(seed, "junk")
    chosen = np.sort(drawn.permutation(len(images))[: round(part * len(images))])
    spoilt = images.clone()
    for row in chosen:
        spoilt[row] = spoilt[row].flatten()[torch.from_numpy(drawn.permutation(SIDE * SIDE))].reshape(SIDE, SIDE)
    return [int(row) for row in chosen], spoilt


def _fitted(inputs: Tensor, labels: Tensor) -> nn.Sequential:
    """A classifier 64-32-10; the caller's generators are left as they were."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(SIDE * SIDE, FEATURES), nn.Tanh(), nn.Linear(FEATURES, 10))
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=1e-2)
        for _ in range(FITTING_STEPS):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
    return model.requires_grad_(False).eval()
