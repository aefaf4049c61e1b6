"""Opening what `record` left: the joint training's last steps, in float64, and the metric at their end.

In float32 the change that one row makes would drown in rounding. Letters: T steps, N train rows, P weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.game import Game, Rules, State, Step, Weights, advance
from pipeline.steps.job import Job
from pipeline.steps.record import adversarial
from pipeline.steps.tasks import new_model, task_of
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest
from pipeline.storage.opened import open_arrays
from pipeline.tasks.checks import row_set
from pipeline.tasks.gan import Gan, in_dtype

Array = np.ndarray[Any, Any]
EXACT = torch.float64


@dataclass(frozen=True)
class Recorded:
    """The last steps of a joint training.

    Attributes:
        task: of the run.
        model: its players, for their form alone.
        inputs: of all train rows, [N, ...].
        manifest: of the steps.
        arrays: see `pipeline.steps.record`.
    """

    task: Gan
    model: nn.Module
    inputs: Tensor
    manifest: Manifest
    arrays: Arrays

    @cached_property
    def game(self) -> Game:
        """The players' losses."""
        return self.task.game(self.model)

    @property
    def rules(self) -> Rules:
        """By which they moved."""
        return self.task.joint.rules

    @cached_property
    def epoch(self) -> Array:
        """Of each step, [T]."""
        return self.arrays.read("epoch")

    @property
    def epochs(self) -> int:
        """How many were kept."""
        return len(np.unique(self.epoch))

    def first(self, horizon: int) -> int:
        """The first step of the last `horizon` epochs."""
        return int(np.searchsorted(self.epoch, self.epoch[-1] - horizon, side="right"))

    def state(self, t: int) -> State:
        """Before step t."""
        return {kind: self._named(kind, t) for kind in ("weights", *self.rules.moments)}

    def step(self, t: int) -> Step:
        """Step t."""
        position, share, latents = (
            self.arrays.read(name, slice(t, t + 1))[0] for name in ("position", "share", "latents")
        )
        there = torch.from_numpy(position[position >= 0])
        return Step(
            int(self._numbers[t]), there, torch.from_numpy(share[: len(there)]).to(EXACT), self.inputs[there],
            torch.from_numpy(latents[: len(there)]).to(EXACT), (float(self._rates[t][0]), float(self._rates[t][1])),
        )  # fmt: skip

    def backward(self) -> Iterator[tuple[State, Step]]:
        """The last step first."""
        return ((self.state(t), self.step(t)) for t in reversed(range(len(self.epoch))))

    @cached_property
    def end(self) -> State:
        """After the last step."""
        step = self.step(len(self.epoch) - 1)
        return advance(self.game, self.rules, step, self.state(len(self.epoch) - 1), torch.ones_like(step.share))

    def slope(self, split: str) -> Weights:
        """The gradient of the metric on a split at the end."""
        found: dict[str, Tensor] = torch.func.grad(self.task.judge(self.model, split))(self.end["weights"])
        return found

    def learnt(self) -> Array:
        """Which train rows some step used, [N]."""
        used = np.zeros(len(self.inputs), bool)
        position, share = self.arrays.read("position"), self.arrays.read("share")
        used[position[share > 0]] = True
        return used

    @cached_property
    def _numbers(self) -> Array:
        return self.arrays.read("number")

    @cached_property
    def _rates(self) -> Array:
        return self.arrays.read("rates")

    def _named(self, kind: str, t: int) -> dict[str, Tensor]:
        vector = torch.from_numpy(self.arrays.read(kind, slice(t, t + 1))[0]).to(EXACT)
        shapes = {name: value.shape for name, value in self.model.named_parameters()}
        parts = vector.split([shape.numel() for shape in shapes.values()])
        return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def open_recorded(job: Job) -> Recorded:
    """The steps of a run.

    Raises:
        StoreError: they are missing or damaged.
    """
    task = adversarial(task_of(job.config, job.plan()))
    manifest, arrays = open_arrays(job.layout.recorded, "recorded")
    rows = row_set(task, "train")
    inputs = in_dtype(task.inputs(rows.batch(range(len(rows)))), EXACT)
    return Recorded(task, new_model(task), inputs, manifest, arrays)
