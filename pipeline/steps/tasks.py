"""The task of a run: loaded, and its model with the weights of a checkpoint."""

from __future__ import annotations

import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import Config, TaskSection
from pipeline.errors import ConfigError, TaskError
from pipeline.provenance import digest_bytes
from pipeline.shards import Plan
from pipeline.storage.layout import Layout
from pipeline.storage.weights import load_into
from pipeline.tasks.base import Shown, Task
from pipeline.tasks.load import load
from pipeline.tasks.rows import CPU


def load_task(section: TaskSection, data: dict[str, Any] | None = None) -> Task:
    """The task that a config names; `data` as recorded in the plan where the section comes without it."""
    options = {**section.options, **(section.data if data is None else data)}
    return load(section.class_, options, Path(section.directory or "."))


def task_of(config: Config, plan: Plan) -> Task:
    """The task of a run that has a plan."""
    return load_task(config.task, plan.data)


def checked_shown(shown: Any) -> Shown:
    """What a task's `show` returned.

    Raises:
        TaskError: something else than a `Shown`.
    """
    if not isinstance(shown, Shown):
        raise TaskError(
            f"expected show(row) to return a pipeline.tasks.base.Shown, got {type(shown).__name__}; return "
            "Shown(text=...), Shown(image=...) or Shown(table=...)"
        )
    return shown


def seed_everything(seed: int, purpose: str) -> int:
    """Seed the global generators, for user code that uses them; returns the derived seed, 63 bits."""
    derived = derive(seed, purpose)
    random.seed(derived)
    np.random.seed(derived % 2**32)
    torch.manual_seed(derived)
    return derived


def derive(seed: int, purpose: str) -> int:
    """A stream of its own from the run's seed, 63 bits."""
    return int(digest_bytes(str(seed).encode(), purpose.encode())[:16], 16) >> 1


def use_threads(config: Config) -> None:
    """Let torch use as many threads as the job reserved."""
    torch.set_num_threads(config.compute.threads)


def new_model(task: Task) -> nn.Module:
    """A model of the task, made under a fixed seed so that unused random weights are the same everywhere."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = task.model()
    return model


def model_at(task: Task, layout: Layout, checkpoint: str, device: torch.device = CPU) -> nn.Module:
    """The task's model with the weights of a checkpoint, in eval mode, on a device.

    Raises:
        CheckpointError: the weights do not fit.
    """
    model = new_model(task)
    load_into(model, layout.checkpoint(checkpoint))
    return model.eval().to(device)


def attributed(
    model: nn.Module, include: list[str], exclude: list[str]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Parameters to attribute, name to shape in model order, and those left out (frozen or excluded).

    Raises:
        ConfigError: nothing is left, or a pattern fits no parameter.
    """
    parameters = dict(model.named_parameters())
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in parameters):
            raise ConfigError(
                f"expected patterns in gradients.include and gradients.exclude that fit a parameter, got {pattern!r}; "
                f"parameters: {', '.join(list(parameters)[:12])}"
            )
    kept = {
        name: tuple(value.shape)
        for name, value in parameters.items()
        if value.requires_grad
        and any(fnmatchcase(name, pattern) for pattern in include)
        and not any(fnmatchcase(name, pattern) for pattern in exclude)
    }
    if not kept:
        raise ConfigError(
            "expected at least one trainable parameter after gradients.include and exclude, got none; widen them"
        )
    return kept, [name for name in parameters if name not in kept]
