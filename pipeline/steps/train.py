"""Train: the checkpoint `trained`, where the user's model is. A user's weights are copied, else the task trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline import config as settings
from pipeline.errors import InputError, TaskError
from pipeline.provenance import digest_file
from pipeline.steps.job import Job, hearing
from pipeline.steps.tasks import new_model, seed_everything, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.opened import open_arrays
from pipeline.storage.weights import load_into, save_weights
from pipeline.tasks.base import Task
from pipeline.tasks.blame import blame, file_of


def run(job: Job) -> None:
    """Write `checkpoints/trained.safetensors`, and before it `checkpoints/seen.zarr`: which train rows there were."""
    use_threads(job.config)
    section, plan = job.config.task, job.plan()
    task = task_of(job.config, plan)
    task_section = settings.sections(job.config, "train", places=False)["task"]
    identity: dict[str, Any] = {"task": task_section, "seed": job.config.seed}
    if section.checkpoint is not None:
        source, model = Path(section.checkpoint), new_model(task)
        load_into(model, source)
        identity["weights"] = digest_file(source)
    else:
        job.say(f"training on {plan.splits['train'].rows} rows")
        seed_everything(job.config.seed, "train")
        with hearing(job):
            model = new_trained(task)
    _, hashes = open_arrays(job.layout.hashes, "rows")
    with job.writing(job.layout.seen, "seen", {"content": plan.splits["train"].content}) as (path, _):
        write_arrays(path, {"train": hashes.read("train")})
    with job.writing(job.layout.checkpoint("trained"), "checkpoint", identity) as (path, record):
        save_weights(path, model)
        record["rows"] = plan.splits["train"].rows


def new_trained(task: Task) -> torch.nn.Module:
    """A model of the task after its own training, under the generators as they are seeded now.

    Raises:
        TaskError: training failed, or left weights that are not numbers.
    """
    model = task.model()
    try:
        task.train(model)
    except InputError:
        raise
    except Exception as error:
        raise TaskError(
            f"expected {type(task).__name__}.train to train the model, got {blame(error, file_of(task))}"
        ) from error
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise TaskError(
                f"expected finite weights after training, got NaN or infinity in {name}; lower the learning rate"
            )
    return model
