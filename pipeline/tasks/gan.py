"""What adversarial tasks have in common: a generator and a discriminator that learn at once, and a figure of merit.

A subclass gives both networks, its rows, and `quality`, what is made of samples: a number, larger is better, that has
a gradient in them. The joint training is here, since influence runs backward through each of its steps
(`pipeline.core.unrolled`): batches of rows and latents from the global generators, a step of both players a batch. The
losses are functions of what the discriminator says, D(x) and D(G(z)); non-saturating logistic ones by default:

    real  softplus(-D(x))      fake  softplus(D(G(z)))      fool  softplus(-D(G(z)))

`loss`, which the common stages see, is the row's own term in the discriminator's loss: it makes scores and indexes of
the discriminator alone, and the controls that influence on the generator has to beat.
Letters: B rows of a batch, L samples, N train rows, Z numbers of a latent.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from pipeline.core.capture.batches import convert
from pipeline.core.game import DESCENT, ORDERS, Game, Rules, State, Step, Weights, advance
from pipeline.errors import TaskError
from pipeline.tasks.altered import AlteredRows
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.noise import stream
from pipeline.tasks.options import one_of, positive, whole
from pipeline.tasks.rows import RowSet

SIDES = ("generator", "discriminator")


class Pair(nn.Module):
    """Both players. The generator takes no part in `loss`, so that its weights are marked as not to be captured."""

    def __init__(self, generator: nn.Module, discriminator: nn.Module) -> None:
        """From latents [L, Z] to samples; from rows or samples to numbers, [B] or [B, 1]."""
        super().__init__()
        self.generator, self.discriminator = generator.requires_grad_(False), discriminator

    def forward(self, rows: Tensor) -> Tensor:
        """D of rows, [B]."""
        said: Tensor = self.discriminator(rows)
        return said.reshape(len(rows))


@dataclass(frozen=True)
class Joint:
    """How both players are trained.

    Attributes:
        epochs: passes over the train rows.
        batch_rows: B; as many latents.
        rates: of discriminator and generator.
        rules: of a step.
    """

    epochs: int
    batch_rows: int = 100
    rates: tuple[float, float] = (1e-3, 1e-3)
    rules: Rules = field(default_factory=Rules)


def joint(epochs: int, batch_rows: int, rate: float, descent: str, order: str) -> Joint:
    """The same from options of a task.

    Raises:
        TaskError: one is out of range.
    """
    rules = Rules(one_of("descent", descent, DESCENT), one_of("order", order, ORDERS))
    rate = positive("rate", rate)
    return Joint(whole("epochs", epochs), whole("batch_rows", batch_rows, 2), (rate, rate), rules)


class Gan(Task):
    """Base of adversarial tasks; a subclass gives `players`, `quality`, rows, and `joint`."""

    joint: Joint
    """How both are trained."""
    latent_size: int = 16
    """Z."""
    judged_samples: int = 500
    """L, samples that `quality` sees, from latents that stay the same."""
    seed: int = 0
    """Of these latents."""

    @abstractmethod
    def players(self) -> tuple[nn.Module, nn.Module]:
        """A new generator, latents [L, Z] to samples, and a discriminator, rows or samples to [B, 1]; no buffers."""

    @abstractmethod
    def quality(self, samples: Tensor, batch: Batch) -> Tensor:
        """The figure of merit of samples [L, ...] before rows of a split, []: larger is better."""

    def inputs(self, batch: Batch) -> Tensor:
        """What the discriminator sees of rows, [B, ...]."""
        found: Tensor = batch[0] if isinstance(batch, (tuple, list)) else batch
        return found

    def real_losses(self, said: Tensor) -> Tensor:
        """The discriminator's loss on rows, of D(x) [B]: [B]."""
        return F.softplus(-said)

    def fake_losses(self, said: Tensor) -> Tensor:
        """The discriminator's loss on samples, of D(G(z)) [L]: [L]."""
        return F.softplus(said)

    def fool_losses(self, said: Tensor) -> Tensor:
        """The generator's loss, of D(G(z)) [L]: [L]."""
        return F.softplus(-said)

    def step_taken(self, state: State, step: Step, epoch: int) -> None:
        """Called before each step of the joint training: what there is, and what it is about to be moved by."""

    # -- what follows from these -------------------------------------------------------------------

    def model(self) -> Pair:
        """Both players."""
        made = Pair(*self.players())
        if names := [name for name, _ in made.named_buffers()]:
            raise TaskError(
                f"expected players without buffers, whose steps can be traced back, got {names[0]}; normalise by "
                "layers or groups instead of batches"
            )
        if any(isinstance(module, _DropoutNd) and module.p for module in made.modules()):
            raise TaskError(
                "expected players without dropout, whose steps can be taken again as they were, got some; take it out"
            )
        return made

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The row's own term in the discriminator's loss, [B]."""
        return self.real_losses(model(self.inputs(batch)))

    def game(self, model: nn.Module) -> Game:
        """The losses of both players as functions of all weights of the pair."""
        assert isinstance(model, Pair)

        def said(weights: Weights, x: Tensor) -> Tensor:
            return _called(model, "discriminator", weights, x).reshape(len(x))

        def of_samples(weights: Weights, latents: Tensor) -> Tensor:
            return said(weights, _called(model, "generator", weights, latents))

        names = frozenset(name for name, _ in model.named_parameters() if name.startswith("discriminator."))
        return Game(
            names,
            lambda weights, rows: self.real_losses(said(weights, rows)),
            lambda weights, latents: self.fake_losses(of_samples(weights, latents)).mean(),
            lambda weights, latents: self.fool_losses(of_samples(weights, latents)).mean(),
        )

    def judge(self, model: nn.Module, split: str) -> Callable[[Weights], Tensor]:
        """`quality` on a split as a function of the weights: samples from latents that are always the same."""
        assert isinstance(model, Pair)
        drawn = stream(self.seed, f"latents for {split}").standard_normal((self.judged_samples, self.latent_size))
        rows = RowSet(self, {"validation": self.validation_rows, "query": self.query_rows}[split](), split)
        batch = rows.batch(range(len(rows)))

        def quality(weights: Weights) -> Tensor:
            dtype = next(iter(weights.values())).dtype
            samples = _called(model, "generator", weights, torch.from_numpy(drawn).to(dtype))
            return self.quality(samples, in_dtype(batch, dtype))

        return quality

    def metric(self, model: nn.Module, split: str) -> float:
        """`quality` of a pair on a split."""
        return float(self.judge(model, split)(weights_of(model)))

    def train(self, model: nn.Module) -> None:
        """The joint training; each step is told to `step_taken`."""
        rules, game = self.joint.rules, self.game(model)
        state, number, learnt = rules.start(weights_of(model)), 0, self._learnt()
        for epoch in range(1, self.joint.epochs + 1):
            for step in self._steps(number, *learnt):
                self.step_taken(state, step, epoch)
                state, number = advance(game, rules, step, state, torch.ones_like(step.share)), step.number
            model.load_state_dict(state["weights"])
            self.epoch_ended(model, self.joint.rates[0])
        model.eval()

    def _steps(self, number: int, inputs: Tensor, here: Tensor, size: int) -> Iterator[Step]:
        """The steps of an epoch.

        Where evaluation took rows out, the batches are those of all rows, and the mean is over those that are left: a
        training differs from another by its rows, and by nothing else.
        """
        for part in torch.randperm(len(here)).split(size):
            number += 1
            kept = here[part].float()
            latents = torch.randn(len(part), self.latent_size)
            yield Step(number, part, kept / kept.sum().clamp(min=1), inputs[part], latents, self.joint.rates)

    def _learnt(self) -> tuple[Tensor, Tensor, int]:
        """Inputs of all train rows [N, ...], which of them are there [N], and B."""
        rows = self.train_rows()
        learnt = RowSet(self, rows)
        found = self.inputs(learnt.batch(range(len(learnt))))
        if not isinstance(rows, AlteredRows):
            return found, torch.ones(len(found), dtype=torch.bool), min(self.joint.batch_rows, len(found))
        total, kept = len(rows.rows), torch.from_numpy(np.asarray(rows.kept, np.int64))
        whole_set = found.new_zeros(total, *found.shape[1:])
        whole_set[kept] = found
        here = torch.zeros(total, dtype=torch.bool)
        here[kept] = True
        return whole_set, here, min(self.joint.batch_rows, total)


def _called(model: Pair, side: str, weights: Weights, x: Tensor) -> Tensor:
    """One of the players, with its part of the weights."""
    own = {name.removeprefix(f"{side}."): value for name, value in weights.items() if name.startswith(f"{side}.")}
    found: Tensor = torch.func.functional_call(getattr(model, side), own, (x,))
    return found


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters, by name."""
    return {name: value.detach() for name, value in model.named_parameters()}


def in_dtype(batch: Any, dtype: torch.dtype) -> Any:
    """A batch with its floating-point tensors in another precision."""
    return convert(batch, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
