"""Influence of a row through the joint training of a generator and a discriminator, backward through its steps. Signed.

    t = T .. 1:    I(i) += u_t^T d step_t / d w_i   for the rows i of batch t,     u_{t-1} = (d step_t / d state)^T u_t
                   u_T = the gradient of the metric in the weights (0 for moments, and for what the metric does not see)

so that I(i) = d metric / d w_i, w_i the weight of row i wherever it was used: positive where training on the row raised
the metric, and minus what leaving it out adds to first order. Exact for the steps that are given, whatever their rules;
rows act on the discriminator alone, so that one simultaneous step tells nothing on a metric of the generator.

Source: Terashita, Ohashi, Nonaka, Kanemaru, "Influence estimation for generative adversarial networks", ICLR 2021 (for
simultaneous gradient descent); Terashita, Ohashi, Hara, "Data cleansing for GANs", TNNLS 36(6) 2025 (for the optimisers
in use). Departures: the step is differentiated as a whole, Adam's moments included, and rates stand where they act
rather than one rate for both players.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor

from pipeline.core.game import Game, Rules, State, Step, Weights, advance


def traced(
    game: Game, rules: Rules, backward: Iterable[tuple[State, Step]], slope: Weights
) -> Iterator[tuple[Step, Tensor]]:
    """What each step adds to the influence of its rows, [B], the last step first.

    Args:
        game: losses of the players.
        rules: by which they moved.
        backward: the state before each step, and the step; the last step first.
        slope: gradient of the metric in the weights after the last step.
    """
    pulled: State | None = None
    for state, step in backward:
        if pulled is None:
            moments = {kind: {name: torch.zeros_like(value) for name, value in slope.items()} for kind in rules.moments}
            pulled = {"weights": dict(slope), **moments}
        _, pull, *_ = torch.func.vjp(partial(advance, game, rules, step), state, torch.ones_like(step.share))
        pulled, found = pull(pulled)
        yield step, found


def replayed(game: Game, rules: Rules, start: State, steps: Iterable[Step], counts: Tensor) -> State:
    """States after the same steps with other weights of the rows, each [J, ...].

    Same batches, latents and rates; a row that counts 0 is masked: the others' shares stay as they are.

    Args:
        game: losses of the players.
        rules: by which they move.
        start: the state before the first step.
        steps: in order.
        counts: w of every train row in each of J replays, [J, N].
    """
    many = len(counts)
    states = {kind: {name: value.expand(many, *value.shape) for name, value in values.items()}
              for kind, values in start.items()}  # fmt: skip
    for step in steps:
        states = torch.func.vmap(partial(advance, game, rules, step))(states, counts[:, step.positions])
    return states
