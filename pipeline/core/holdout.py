"""Internal splits of the clean validation rows, and the held-out loss along a descent.

The rows are permuted once; fold f holds out the next share of them and descends, from the trained weights and with all
of the settings, on the rest. The curve of the held-out loss says whether the descent settled.
"""

from __future__ import annotations

import math
from collections.abc import Generator

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.core.minimum import Progress, Settings, descend
from pipeline.core.perturbation import stream
from pipeline.core.rows import Part, Rows, row_losses

POINTS = 20  # of a held-out curve, besides its start


def splits(count: int, folds: int, held_out: float, seed: int) -> list[tuple[list[int], list[int]]]:
    """The internal splits of `count` rows: for each fold the positions to descend on and those held out.

    Held-out parts are disjoint as long as folds x held_out is at most 1; then they wrap around.
    """
    order = torch.randperm(count, generator=stream(seed, "flatten split")).tolist()
    size = round(held_out * count)
    turns = [order[f * size % count :] + order[: f * size % count] for f in range(folds)]
    return [(turn[size:], turn[:size]) for turn in turns]


def held_out_curve(
    model: nn.Module, loss: Loss, rows: Rows, split: tuple[list[int], list[int]], settings: Settings
) -> Generator[Progress, None, Tensor]:
    """Descend on the first part of `split`; returns the losses of the second over the steps, [POINTS + 1, rows]."""
    fit, kept = Part(rows, split[0]), Part(rows, split[1])
    curve = [row_losses(model, loss, kept, settings.batch_rows)]
    marks = set(marked_steps(settings.steps))
    for progress in descend(model, loss, fit, settings):
        if progress.step in marks:
            curve.append(row_losses(model, loss, kept, settings.batch_rows))
        yield progress
    return torch.stack(curve)


def marked_steps(steps: int) -> list[int]:
    """Where a curve is measured besides step 0: at most POINTS steps, the last one among them."""
    return sorted({math.ceil(steps * point / POINTS) for point in range(1, POINTS + 1)})


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of the mean of values [R]."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def verdict(curve: Tensor) -> str:
    """Whether a descent has settled, by its held-out losses [points, rows] from step 0 to the last.

    Differences count when they exceed two standard errors, paired by row, and 2 % of the loss at step 0.
    """
    means = curve.mean(dim=1)
    bottom, late = curve[int(means.argmin())], curve[(3 * (len(curve) - 1)) // 4]
    floor = 0.02 * abs(float(means[0]))
    if _exceeds(curve[-1] - curve[0], floor):
        return "held-out loss ended above that of the trained weights: lower the learning rate or strength, or add rows"
    if _exceeds(curve[-1] - bottom, floor):
        return "held-out loss was rising again at the end: fewer steps or a greater strength may do better"
    if _exceeds(late - curve[-1], floor):
        return "held-out loss was still falling at the end: more steps may do better"
    return "held-out loss had settled at the end"


def _exceeds(differences: Tensor, floor: float) -> bool:
    mean, error = mean_and_error(differences)
    return mean > floor and mean > 2 * error
