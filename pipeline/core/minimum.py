"""The descent to a flat minimum of the loss on clean validation rows, starting from the trained weights.

Each step takes a batch of rows, gets the gradient of its mean loss from a strategy (`pipeline.core.perturbation`:
plain, SAM, ASAM, LPF-SGD) and lets SGD with momentum, or AdamW, act on it. The learning rate falls along a cosine:
rate (1 + cos(pi t / T)) / 2 at step t = 0 to T - 1.

The whole model stays in eval mode: BatchNorm normalises by its running statistics, which are not updated (its scale
and shift are trained like any other weight), and dropout is off. So the objective is exactly the loss whose gradients
are captured at the minimum afterwards. Parameters that require no gradient are not touched, nor decayed; nor are those
that the loss does not use.

Batch order and noise depend on (seed, epoch) and (seed, step, part) alone, never on torch's global generators; these
are seeded by (seed, step, part) while the loss runs, the same in both passes of SAM, and are as before afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.core.perturbation import Asam, Lpf, PartLoss, Plain, Sam, Strategy, stream, trainable
from pipeline.core.rows import Rows, eval_mode, losses_of
from pipeline.errors import ConfigError, DataError

Method = Literal["plain", "sam", "asam", "lpf"]
Optimizer = Literal["sgd", "adamw"]


class Divergence(ConfigError):  # noqa: N818 - the event is its name
    """A descent whose loss or weights ceased to be finite."""


@dataclass(frozen=True)
class Settings:
    """How to descend.

    Attributes:
        method: "plain", "sam", "asam" or "lpf".
        strength: rho (sam, asam) or gamma (lpf), in the units of `pipeline.core.perturbation`; plain ignores it.
        steps: T, optimiser steps.
        learning_rate: at the first step.
        momentum: of SGD; beta_1 of AdamW.
        weight_decay: L2 for SGD, decoupled for AdamW.
        batch_rows: rows a step; the last batch of an epoch may be smaller.
        noise_parts: M of lpf.
        noise_growth: alpha of lpf.
        optimizer: "sgd" or "adamw".
        seed: of batch order, noise and internal splits.
    """

    method: Method
    strength: float
    steps: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch_rows: int
    noise_parts: int
    noise_growth: float
    optimizer: Optimizer
    seed: int

    def __post_init__(self) -> None:
        """Refuse what cannot be run.

        Raises:
            ConfigError: an unknown name, or a number out of range.
        """
        _one_of("method", self.method, STRATEGIES)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        for name in ("steps", "batch_rows", "noise_parts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}: raise it")
        if not (math.isfinite(self.strength) and self.strength >= 0):
            raise ConfigError(f"expected a finite strength of at least 0, got {self.strength}: choose another")


@dataclass(frozen=True)
class Progress:
    """One step of a descent.

    Attributes:
        step: steps done, 1 to `steps`.
        steps: length of the descent.
        loss: the batch's mean loss before the step in nats; under the noise for lpf.
    """

    step: int
    steps: int
    loss: float


STRATEGIES: dict[str, Callable[[Settings], Strategy]] = {
    "plain": lambda settings: Plain(),
    "sam": lambda settings: Sam(settings.strength),
    "asam": lambda settings: Asam(settings.strength),
    "lpf": lambda s: Lpf(s.strength, s.noise_growth, s.noise_parts, s.seed),
}

OPTIMIZERS: dict[str, Callable[[Sequence[Tensor], Settings], torch.optim.Optimizer]] = {
    "sgd": lambda parameters, s: torch.optim.SGD(
        parameters, lr=s.learning_rate, momentum=s.momentum, weight_decay=s.weight_decay
    ),
    "adamw": lambda parameters, s: torch.optim.AdamW(
        parameters, lr=s.learning_rate, betas=(s.momentum, 0.999), weight_decay=s.weight_decay
    ),
}


def descend(model: nn.Module, loss: Loss, rows: Rows, settings: Settings) -> Iterator[Progress]:
    """Train `model` in place on the mean loss of `rows`, one optimiser step an iteration.

    The descent happens while the iterator is drained. The modules' train or eval mode is as before afterwards.

    Args:
        model: at the trained weights.
        loss: per-sample loss, (model, batch) to [B] in nats.
        rows: clean validation rows.
        settings: how.

    Yields:
        One `Progress` a step.

    Raises:
        DataError: no rows, or a loss that is not finite at the trained weights.
        Divergence: a loss or weight ceased to be finite.
        TaskError: no trainable parameter, or a loss that is not [B].
    """
    if len(rows) == 0:
        raise DataError("expected clean validation rows to descend on, got none: give the task some")
    parameters = trainable(model)
    strategy = STRATEGIES[settings.method](settings)
    optimizer = OPTIMIZERS[settings.optimizer](parameters, settings)
    with eval_mode(model):
        for step, indices in enumerate(batch_order(len(rows), settings)):
            _set_rate(optimizer, settings.learning_rate * (1 + math.cos(math.pi * step / settings.steps)) / 2)
            parts = _parts(model, loss, rows, indices, strategy.parts, stream(settings.seed, "flatten loss", step))
            value = _step(parameters, strategy, optimizer, parts, step, settings)
            yield Progress(step + 1, settings.steps, value)
        _check_weights(parameters, settings)


def batch_order(count: int, settings: Settings) -> Iterator[list[int]]:
    """The positions of each step's rows: `settings.steps` batches, every epoch a new permutation of all rows."""
    done = epoch = 0
    while done < settings.steps:
        order = torch.randperm(count, generator=stream(settings.seed, "flatten", epoch))
        for chosen in order.split(settings.batch_rows)[: settings.steps - done]:
            yield chosen.tolist()
            done += 1
        epoch += 1


def _parts(
    model: nn.Module, loss: Loss, rows: Rows, indices: Sequence[int], count: int, generator: torch.Generator
) -> list[PartLoss]:
    """The losses of a batch cut into at most `count` parts of nearly equal size; each part's rows are read once."""
    cuts = [piece.tolist() for piece in torch.tensor(indices).tensor_split(min(count, len(indices)))]
    seeds = torch.randint(2**62, (len(cuts),), generator=generator).tolist()

    def part(chosen: list[int], seed: int) -> PartLoss:
        batch = rows.batch(chosen)
        return lambda: losses_of(model, loss, batch, len(chosen), seed).sum() / len(indices)

    return [part(chosen, seed) for chosen, seed in zip(cuts, seeds, strict=True)]


def _step(
    parameters: Sequence[Tensor],
    strategy: Strategy,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[PartLoss],
    step: int,
    settings: Settings,
) -> float:
    """One optimiser step; returns the batch's loss."""
    optimizer.zero_grad(set_to_none=True)
    with torch.enable_grad():
        value = strategy.backward(parameters, parts, step, settings.steps)
    if not math.isfinite(value):
        _refuse(value, parts, step, settings)
    optimizer.step()
    return value


def _refuse(value: float, parts: Sequence[PartLoss], step: int, settings: Settings) -> None:
    """Say whose fault a loss that is not finite is: that of the data or checkpoint, or of the settings."""
    with torch.no_grad():
        clean = sum(float(part()) for part in parts)
    if step == 0 and not math.isfinite(clean):
        raise DataError(
            f"expected a finite loss at the trained weights, got {clean} on clean validation rows: look for values "
            "that are not finite in those rows and in the checkpoint"
        )
    raise _divergence(f"a loss of {value} at step {step + 1} of {settings.steps}", settings)


def _check_weights(parameters: Sequence[Tensor], settings: Settings) -> None:
    """The last step's effect is seen by no later loss."""
    if not all(bool(p.isfinite().all()) for p in parameters):
        raise _divergence(f"weights that are not finite after step {settings.steps}", settings)


def _divergence(what: str, settings: Settings) -> Divergence:
    strength = "" if settings.method == "plain" else f" or the strength (now {settings.strength:g})"
    return Divergence(
        f"expected a finite loss while descending by {settings.method}, got {what}: "
        f"lower the learning rate (now {settings.learning_rate:g}){strength}"
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"expected {name} to be one of {', '.join(known)}, got {value!r}: choose one of them")
