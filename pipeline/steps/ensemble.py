"""Ensemble: the chained models of GEX (`core/estimators/gex`), each fine-tuned on the train rows from the last one."""

from __future__ import annotations

from pipeline.core.device import chosen
from pipeline.core.minimum import Settings, descend
from pipeline.schema_estimators import EnsembleSection
from pipeline.steps.job import Job
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.checks import row_set


def run(job: Job) -> None:
    """Write `checkpoints/geometric-<number>.safetensors`, one after the other."""
    use_threads(job.config)
    section, task = job.config.ensemble, task_of(job.config, job.plan())
    rows = row_set(task, "train", chosen(job.config.compute.device))
    model = model_at(task, job.layout, "trained", rows.device)
    identity = {"trained": read_manifest(job.layout.checkpoint("trained")).digest, "ensemble": section.plain(),
                "seed": job.config.seed}  # fmt: skip
    for name in section.names:
        progress = job.progress(name, section.steps, "steps")
        for _ in descend(model, task.loss, rows, settings(section, derive(job.config.seed, name))):
            progress.add()
        with job.writing(job.layout.checkpoint(name), "checkpoint", {**identity, "member": name}) as (path, record):
            save_weights(path, model)
            record["rows"] = len(rows)


def settings(section: EnsembleSection, seed: int) -> Settings:
    """Of the descent to a member."""
    return Settings(
        method="plain", strength=0.0, steps=section.steps, learning_rate=section.learning_rate,
        momentum=section.momentum, weight_decay=0.0, batch_rows=section.batch_rows, noise_parts=1, noise_growth=1.0,
        optimizer="sgd", seed=seed,
    )  # fmt: skip
