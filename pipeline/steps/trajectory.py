"""Trajectory: the weights after some epochs of the training, for TracIn and f-INE. The training is run again.

Apart from `train`, so that epochs can be asked for later without another `trained`: same seed, same path. Its twin
(`steps/twin`) is the same training from another seed.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from torch import Tensor, nn

from pipeline.errors import ConfigError, TaskError
from pipeline.steps.job import Job, hearing
from pipeline.steps.member import check_trains
from pipeline.steps.tasks import seed_everything, task_of, use_threads
from pipeline.steps.train import new_trained
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights


@dataclass
class Recorder:
    """Keeps the weights after the epochs that are wanted."""

    wanted: list[int]
    kept: dict[int, tuple[dict[str, Tensor], float]] = field(default_factory=dict)
    epochs: int = 0

    def __call__(self, model: nn.Module, learning_rate: float) -> None:
        """An epoch has ended, the learning rate of which is told."""
        self.epochs += 1
        if self.epochs in self.wanted:
            self.kept[self.epochs] = copy.deepcopy(model.state_dict()), float(learning_rate)


def run(job: Job) -> None:
    """Write `checkpoints/epoch-<number>.safetensors` for the epochs of the config; records hold the learning rate."""
    record_epochs(job, "epoch", "train")


def record_epochs(job: Job, kind: str, purpose: str) -> None:
    """Train and keep the weights after the epochs of the config.

    Args:
        job: of the stage.
        kind: what the checkpoints are called, before their number.
        purpose: of the stream that the training is seeded with; "train" is that of `trained`.

    Raises:
        ConfigError: the weights were given, and have no epochs.
        TaskError: the task does not train, or does not say when an epoch has ended.
    """
    use_threads(job.config)
    wanted, task = job.config.checkpoints.epochs, task_of(job.config, job.plan())
    if job.config.task.checkpoint is not None:
        raise ConfigError(
            "expected no task.checkpoint with checkpoints.epochs, got both: epochs are those of the task's own "
            "training; take one out"
        )
    check_trains(task, "checkpoints.epochs")
    recorder = Recorder(wanted)
    task.epoch_ended = recorder  # type: ignore[method-assign]
    seed_everything(job.config.seed, purpose)
    with hearing(job):
        model = new_trained(task)
    missing = [epoch for epoch in wanted if epoch not in recorder.kept]
    if missing:
        raise TaskError(
            f"expected {type(task).__name__}.train to call self.epoch_ended(model, learning_rate) after each epoch, up "
            f"to {max(wanted)}, got {recorder.epochs} calls; write the call, or change checkpoints.epochs"
        )
    trained = read_manifest(job.layout.checkpoint("trained")).digest
    for epoch, (weights, rate) in recorder.kept.items():
        model.load_state_dict(weights)
        identity = {"task": job.config.task.plain(), "seed": job.config.seed, kind: epoch, "trained": trained}
        with job.writing(job.layout.checkpoint(f"{kind}-{epoch}"), "checkpoint", identity) as (path, record):
            save_weights(path, model)
            record["learning_rate"] = rate
