"""Member: a further model of the task, trained from a seed of its own, for averages over models (TRAK)."""

from __future__ import annotations

from pipeline.errors import TaskError
from pipeline.steps.job import Job, hearing
from pipeline.steps.tasks import seed_everything, task_of, use_threads
from pipeline.steps.train import new_trained
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.base import Task, trains


def run(job: Job, checkpoint: str) -> None:
    """Write `checkpoints/seed-<number>.safetensors`."""
    use_threads(job.config)
    task = task_of(job.config, job.plan())
    check_trains(task, "checkpoints.seeds")
    job.say(f"training {checkpoint}")
    seed_everything(job.config.seed, checkpoint)
    with hearing(job):
        model = new_trained(task)
    identity = {
        "task": job.config.task.plain(),
        "seed": job.config.seed,
        "member": checkpoint,
        "trained": read_manifest(job.layout.checkpoint("trained")).digest,
    }
    with job.writing(job.layout.checkpoint(checkpoint), "checkpoint", identity) as (path, record):
        save_weights(path, model)
        record["rows"] = job.plan().splits["train"].rows


def check_trains(task: Task, key: str) -> None:
    """Refuse a task that cannot train.

    Raises:
        TaskError: naming the key of the config that asks for training.
    """
    if not trains(task):
        raise TaskError(
            f"expected a task that trains for {key}, got {type(task).__name__} without `train`; write it, or take the "
            "key out"
        )
