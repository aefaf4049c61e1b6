"""Two players that learn at once: a discriminator on rows and samples, a generator against it, and a step of both.

    L_D = sum_i s_i w_i l(x_i) + f(z)        L_G = g(z)

over the rows i of a batch, s_i = 1/B (0 for a row that was taken out), w_i = 1 unless it is masked, z its latents.
A step moves the discriminator along its gradient of L_D and the generator along its own of L_G, each at its own rate,
both from the same weights (*simultaneous*) or the generator after the discriminator has moved (*alternating*); by
gradient descent or by Adam (Kingma and Ba 2015). `advance` is that step as a function of state and w: what
`pipeline.core.unrolled` differentiates, and what trains. Letters: B rows of a batch, P weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
State = dict[str, dict[str, Tensor]]
"""`weights`, and under Adam the moments `first` and `second`, each by name of the parameter."""

DESCENT = ("sgd", "adam")
ORDERS = ("simultaneous", "alternating")
MOMENTS = {"sgd": (), "adam": ("first", "second")}


@dataclass(frozen=True)
class Game:
    """The losses of the players, as functions of all weights.

    Attributes:
        discriminator: names of the parameters that are the discriminator's; all others are the generator's.
        real: the discriminator's loss on each row of a batch, (weights, rows) -> [B].
        fake: its loss on what is generated from latents, (weights, latents) -> [].
        fool: the generator's loss, (weights, latents) -> [].
    """

    discriminator: frozenset[str]
    real: Callable[[Weights, Any], Tensor]
    fake: Callable[[Weights, Any], Tensor]
    fool: Callable[[Weights, Any], Tensor]


@dataclass(frozen=True)
class Rules:
    """How the players move.

    Attributes:
        descent: sgd or adam.
        order: simultaneous or alternating.
        betas: of Adam.
        epsilon: of Adam.
        decay: what of the weights is added to their gradients.
    """

    descent: str = "adam"
    order: str = "simultaneous"
    betas: tuple[float, float] = (0.5, 0.999)
    epsilon: float = 1e-8
    decay: float = 0.0

    def start(self, weights: Weights) -> State:
        """The state before the first step."""
        moments = {kind: {name: torch.zeros_like(value) for name, value in weights.items()} for kind in self.moments}
        return {"weights": {name: value.detach().clone() for name, value in weights.items()}, **moments}

    @property
    def moments(self) -> tuple[str, ...]:
        """What a state holds beside the weights."""
        return MOMENTS[self.descent]


@dataclass(frozen=True)
class Step:
    """What one step was made with.

    Attributes:
        number: from 1, for Adam's bias.
        positions: of its rows among all train rows, [B] integers.
        share: s_i, [B].
        rows: the inputs of these rows, [B, ...].
        latents: [L, ...].
        rates: of discriminator and generator.
    """

    number: int
    positions: Tensor
    share: Tensor
    rows: Any
    latents: Any
    rates: tuple[float, float]


def gradients(game: Game, weights: Weights, mask: Tensor, step: Step, player: int) -> dict[str, Tensor]:
    """The gradient of one player's loss in its own weights; 0: the discriminator, 1: the generator."""
    own = {name: value for name, value in weights.items() if (name in game.discriminator) == (player == 0)}

    def loss(mine: Weights) -> Tensor:
        every = {**weights, **mine}
        if player == 1:
            return game.fool(every, step.latents)
        return (step.share * mask * game.real(every, step.rows)).sum() + game.fake(every, step.latents)

    found: dict[str, Tensor] = torch.func.grad(loss)(own)
    return found


def advance(game: Game, rules: Rules, step: Step, state: State, mask: Tensor) -> State:
    """The state after a step in which rows count by `mask`, w, [B]."""
    weights = state["weights"]
    after = _moved(rules, state, step, 0, gradients(game, weights, mask, step, 0))
    seen = {**weights, **after["weights"]} if rules.order == "alternating" else weights
    other = _moved(rules, state, step, 1, gradients(game, seen, mask, step, 1))
    return {kind: {name: {**after[kind], **other[kind]}[name] for name in values} for kind, values in state.items()}


def _moved(rules: Rules, state: State, step: Step, player: int, gradient: Weights) -> State:
    """The part of the state that is a player's, after its move."""
    found: State = {kind: {} for kind in state}
    rate = step.rates[player]
    for name, slope in gradient.items():
        weight = state["weights"][name]
        slope = slope + rules.decay * weight if rules.decay else slope
        if rules.descent == "adam":
            first, second = (state[kind][name] for kind in MOMENTS["adam"])
            found["first"][name] = first + (1 - rules.betas[0]) * (slope - first)
            found["second"][name] = second + (1 - rules.betas[1]) * (slope.square() - second)
            slope = found["first"][name] / (1 - rules.betas[0] ** step.number)
            rate_of = rate * preconditioner(rules, found["second"][name], step.number)
            found["weights"][name] = weight - rate_of * slope
        else:
            found["weights"][name] = weight - rate * slope
    return found


def preconditioner(rules: Rules, second: Tensor, number: int) -> Tensor:
    """Adam's factor of each coordinate, 1 / (sqrt(v / (1 - b2^k)) + epsilon).

    Its slope is taken as 0 where v is 0, a weight that has had no gradient yet; there the root has none.
    """
    moved = second > 0
    root = torch.where(moved, torch.where(moved, second, 1.0).sqrt(), 0.0)
    return 1 / (root / (1 - rules.betas[1] ** number) ** 0.5 + rules.epsilon)
