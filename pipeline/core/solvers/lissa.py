"""LiSSA (Agarwal, Bullins, Hazan, JMLR 2017): a truncated Neumann series over batches, as in Koh and Liang (2017).

    u_0 = v / s,   u_(j+1) = u_j + (v - (C_B + lambda) u_j) / s

whose fixed point is (C + lambda)^-1 v in the mean over batches B, if s is above half the largest eigenvalue of each
C_B + lambda; the mean of some repeats is taken. Two departures: the series is written for u itself, so that lambda is
not multiplied by s as it is in common implementations; and s comes from the power method instead of the user.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.core.solvers.cg import Solution
from pipeline.core.solvers.products import RowGradients
from pipeline.errors import ConfigError

POWER_STEPS = 20


def lissa(gradients: RowGradients, vector: Tensor, damping: float, depth: int, repeats: int, batch_rows: int,
          seed: int) -> Solution:  # fmt: skip
    """(C + lambda)^-1 v, [P], by batches drawn without replacement.

    Args:
        gradients: of the rows behind C.
        vector: v, [P] float64.
        damping: lambda, absolute.
        depth: steps of a repeat.
        repeats: whose mean is taken.
        batch_rows: rows of a batch.
        seed: of the order of rows.

    Raises:
        ConfigError: the series diverged.
    """
    scale, total = _scale(gradients, damping, batch_rows, seed), torch.zeros_like(vector)
    for repeat in range(repeats):
        found = vector / scale
        for _, part in zip(range(depth), _parts(len(gradients.rows), batch_rows, seed + 1 + repeat), strict=False):
            found += (vector - gradients.of(part).fisher(found) - damping * found) / scale
        total += found / repeats
    if not torch.isfinite(total).all():
        raise ConfigError(
            f"expected LiSSA to converge, got NaN or infinity after {depth} steps; raise solvers.lissa_batch_rows, so "
            "that batches are more alike"
        )
    rest = vector - gradients.fisher(total) - damping * total
    return Solution(total, float(rest.norm() / vector.norm()), depth * repeats)


def _scale(gradients: RowGradients, damping: float, batch_rows: int, seed: int) -> float:
    """The largest eigenvalue of C_B + lambda over batches, about: that of batches after some power steps, doubled."""
    vector = torch.randn(gradients.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    largest = 0.0
    for part, _ in zip(_parts(len(gradients.rows), batch_rows, seed), range(POWER_STEPS), strict=False):
        image = gradients.of(part).fisher(vector / vector.norm())
        largest, vector = max(largest, float(image.norm())), image + 1e-12 * vector
    return 2 * largest + damping


def _parts(count: int, batch_rows: int, seed: int) -> Iterator[list[int]]:
    """Batches without end; each pass has an order of its own."""
    stream = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=stream).tolist()
        for start in range(0, count - count % batch_rows or count, batch_rows):
            yield order[start : start + batch_rows]
