"""Record: the steps of a joint training of generator and discriminator, for influence backward through them.

The training is run again with the same seed, as for `trajectory`, and must come to `trained` bit by bit. Of each step
of the last epochs is kept what it was made from: the state before it, its rows, latents and rates.
Letters: T steps, P weights, B rows and latents of a step, Z numbers of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.game import State, Step, Weights
from pipeline.errors import CapacityError, ConfigError, TaskError
from pipeline.steps.job import Job, hearing
from pipeline.steps.tasks import seed_everything, task_of, use_threads
from pipeline.steps.train import new_trained
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import read_weights
from pipeline.tasks.base import Task
from pipeline.tasks.gan import Gan

Array = np.ndarray[Any, Any]
MB = 10**6


@dataclass
class Recorder:
    """Keeps the steps of the last epochs; `wanted` 0: of all."""

    wanted: int
    memory_mb: int
    kept: list[tuple[int, State, Step]] = field(default_factory=list)

    def __call__(self, state: State, step: Step, epoch: int) -> None:
        """A step is about to be taken."""
        if self.wanted and self.kept and self.kept[0][0] <= epoch - self.wanted:
            self.kept = [each for each in self.kept if each[0] > epoch - self.wanted]
        self.kept.append((epoch, state, step))
        bytes_kept = len(self.kept) * sum(value.nbytes for kind in state.values() for value in kind.values())
        if bytes_kept > self.memory_mb * MB:
            raise CapacityError(
                f"expected the steps of {self.wanted or 'all'} epochs within {self.memory_mb} MB, got more after "
                f"{len(self.kept)} steps; lower gan.epochs or raise compute.memory_mb"
            )


def run(job: Job) -> None:
    """Write `recorded/steps.zarr`: weights, moments [T, P], position, share [T, B], latents [T, B, Z], and numbers."""
    use_threads(job.config)
    task = adversarial(task_of(job.config, job.plan()))
    if job.config.task.checkpoint is not None:
        raise ConfigError(
            "expected no task.checkpoint with gan_itd and gan_aid, got one: steps are those of the task's own "
            "training; take it out"
        )
    recorder = Recorder(job.config.gan.epochs, job.config.compute.memory_mb)
    task.step_taken = recorder  # type: ignore[method-assign]
    job.say("training again to keep its steps")
    seed_everything(job.config.seed, "train")
    with hearing(job):
        model = new_trained(task)
    _check_same(model.state_dict(), read_weights(job.layout.checkpoint("trained")))
    if not recorder.kept:
        raise TaskError(f"expected {type(task).__name__}.train to call self.step_taken before each step, got no call")
    identity = {
        "task": job.config.task.plain(), "seed": job.config.seed, "epochs": job.config.gan.epochs,
        "trained": read_manifest(job.layout.checkpoint("trained")).digest,
    }  # fmt: skip
    with job.writing(job.layout.recorded, "recorded", identity) as (path, record):
        write_arrays(path, _arrays(recorder.kept))
        record.update(steps=len(recorder.kept), rows=job.plan().splits["train"].rows)


def adversarial(task: Task) -> Gan:
    """The task, if it trains a generator against a discriminator.

    Raises:
        TaskError: it does not.
    """
    if not isinstance(task, Gan):
        raise TaskError(
            f"expected a task that trains a generator against a discriminator for gan_itd, gan_aid and --replay, got "
            f"{type(task).__name__}; inherit pipeline.tasks.gan.Gan, or take them out"
        )
    return task


def _check_same(again: Weights, trained: Weights) -> None:
    if any(not torch.equal(value, trained[name]) for name, value in again.items()):
        raise TaskError(
            "expected the training to come to `trained` again, got other weights: rows, code or threads are not those "
            "that it was made with; `lowland run --refit` starts anew"
        )


def _arrays(kept: list[tuple[int, State, Step]]) -> dict[str, Array]:
    """Steps of unequal size are filled up with position -1."""
    size = max(len(step.positions) for _, _, step in kept)
    states = {kind: np.stack([flat(state[kind]).numpy() for _, state, _ in kept]) for kind in kept[0][1]}
    return {
        **states,
        "position": np.stack([_filled(step.positions, size, -1) for _, _, step in kept]),
        "share": np.stack([_filled(step.share, size, 0) for _, _, step in kept]),
        "latents": np.stack([_filled(step.latents, size, 0) for _, _, step in kept]),
        "number": np.array([step.number for _, _, step in kept]),
        "epoch": np.array([epoch for epoch, _, _ in kept]),
        "rates": np.array([step.rates for _, _, step in kept]),
    }


def flat(values: Weights) -> Tensor:
    """All of them as one vector, [P]."""
    return torch.cat([value.reshape(-1) for value in values.values()])


def _filled(values: Tensor, size: int, filler: float) -> Array:
    found = np.full((size, *values.shape[1:]), filler, values.numpy().dtype)
    found[: len(values)] = values.numpy()
    return found
