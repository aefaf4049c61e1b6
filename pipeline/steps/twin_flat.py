"""Twin-flat: a flat validation minimum reached from the twin, as `flat` is from `trained`: suspects under another seed.

The strength and learning rate are those that were chosen for `flat`; the batches of the descent are drawn anew.
"""

from __future__ import annotations

from pipeline.core.device import chosen
from pipeline.core.minimum import descend
from pipeline.steps.flatten import settings_of
from pipeline.steps.job import Job
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.checks import row_set


def run(job: Job) -> None:
    """Write `checkpoints/twin-flat.safetensors`."""
    use_threads(job.config)
    task, last = task_of(job.config, job.plan()), f"twin-{max(job.config.checkpoints.epochs)}"
    rows = row_set(task, "validation", chosen(job.config.compute.device))
    flat = read_manifest(job.layout.checkpoint("flat"))
    seed = derive(job.config.seed, "twin-flat")
    settings = settings_of(job.config.flatten, flat.identity["strength"], flat.record["learning_rate"], seed)
    model, progress = model_at(task, job.layout, last, rows.device), job.progress("descending", settings.steps, "steps")
    for _ in descend(model, task.loss, rows, settings):
        progress.add()
    identity = {
        "twin": read_manifest(job.layout.checkpoint(last)).digest,
        "flat": flat.digest,
        "content": job.plan().splits["validation"].content,
    }
    with job.writing(job.layout.checkpoint("twin-flat"), "checkpoint", identity) as (path, record):
        save_weights(path, model)
        record["rows"] = job.plan().splits["train"].rows
