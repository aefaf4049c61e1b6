"""Spaces in which the benchmark `diffusion` looks for the images nearest to a query: controls that know no gradient.

Pixels; what the U-Net's lowest blocks make of images; and the last hidden layer of a classifier that learnt the classes
of the train images, which so knows of train rows what gradients of a model that is told the class know, but does not
know the query's class.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from benchmarks.diffusion_runs import Array, Seed
from pipeline.tasks.checks import row_set
from pipeline.tasks.models import small_cnn

SIDE, EPOCHS, RATE, BATCH_ROWS = 16, 60, 1e-3, 64


def spaces(seed: Seed, classes: Array) -> dict[str, dict[str, Array]]:
    """Coordinates of the images of queries and train rows, [N, D], by the name of the space.

    Args:
        seed: with its model and task.
        classes: of the train rows, [N].
    """
    rows = {split: row_set(seed.task, split) for split in ("query", "train")}
    batches = {split: each.batch(range(len(each))) for split, each in rows.items()}
    images = {split: batch["clean"][:, 0] for split, batch in batches.items()}
    hidden = classifier(images["train"], classes, seed.setting.seed)[:-1]
    with torch.no_grad():
        return {
            "pixels": {split: each.flatten(1).numpy() for split, each in images.items()},
            "the U-Net's features": {
                split: seed.task.features(seed.model, batch).numpy() for split, batch in batches.items()
            },
            "a classifier's features": {split: hidden(each).numpy() for split, each in images.items()},
        }


def classifier(images: torch.Tensor, classes: Array, seed: int) -> nn.Sequential:
    """A small CNN that learnt the classes [N] of images [N, 1, S, S], its last layer but one a ReLU."""
    labels = torch.from_numpy(np.unique(classes, return_inverse=True)[1])
    torch.manual_seed(seed)
    model = small_cnn(SIDE, int(labels.max()) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    for _ in range(EPOCHS):
        for part in torch.randperm(len(labels)).split(BATCH_ROWS):
            loss = nn.functional.cross_entropy(model(images[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()
