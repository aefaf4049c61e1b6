"""Influence of a row on a metric of the generator where both players have come to rest, by a Neumann series. Signed.

The players' gradients F = (dL_D / dD, dL_G / dG) over all rows vanish at rest. With J = dF / dweights and the metric's
gradient g,

    u_0 = 0,    u_k = (1 - damping) u_(k-1) - J^T S u_(k-1) + g,    I(i) = -(dF / dw_i)^T S u_K

S = the step sizes. As K grows and where it converges, u = (J^T S)^-1 g without damping, I(i) = -(dF / dw_i)^T J^-T g:
the change of the metric at the point of rest with the weight of row i, whatever S. K steps are what
`pipeline.core.unrolled` gives where the last K steps were all made on all rows at these weights. J is not symmetric:
what helps one player harms the other.

Source: Terashita, Ohashi, Hara, "Data cleansing for GANs", TNNLS 36(6) 2025, arXiv 2504.00603 (AID). Departure: the
published code loses its "+ g", so that u decays instead of adding up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pipeline.core.game import Game, Step, Weights, gradients


def settled(
    game: Game, weights: Weights, whole: Step, slope: Weights, sizes: Weights, depth: int, damping: float,
    done: Callable[[], None] = lambda: None,
) -> tuple[Tensor, float]:  # fmt: skip
    """I of the rows of `whole`, [N], and |u_K - u_(K-1)| / |u_K|, which says how far the series has come.

    Args:
        game: losses of the players.
        weights: where they rest.
        whole: all rows and latents at once; its number and rates count for nothing.
        slope: g.
        sizes: S, a tensor of each weight's shape or [].
        depth: K, at least 1.
        damping: 0 to 1.
        done: called after each product with J.
    """

    def field(at: Weights, mask: Tensor) -> dict[str, Tensor]:
        found = {**gradients(game, at, mask, whole, 0), **gradients(game, at, mask, whole, 1)}
        return {name: found[name] for name in at}

    _, pull, *_ = torch.func.vjp(field, dict(weights), torch.ones_like(whole.share))
    summed, change = {name: torch.zeros_like(value) for name, value in weights.items()}, 1.0
    for _ in range(depth):
        turned, _ = pull({name: sizes[name] * value for name, value in summed.items()})
        after = {name: (1 - damping) * value - turned[name] + slope[name] for name, value in summed.items()}
        change = _norm({name: after[name] - summed[name] for name in after}) / max(_norm(after), 1e-300)
        summed = after
        done()
    _, found = pull({name: sizes[name] * value for name, value in summed.items()})
    return -found, change


def _norm(values: Weights) -> float:
    return float(torch.stack([value.square().sum() for value in values.values()]).sum().sqrt())
