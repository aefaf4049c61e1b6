"""Ensemble: the chained models of GEX (`core/estimators/gex`), each fine-tuned on the train rows from the last one.

How far the chain goes decides what GEX says: at too small a rate the members know by heart what `trained` knows, and
losses change by nothing; at too large a one the model falls apart. Neither is seen on the train rows. So the rate is
the one whose first member has the least mean loss on clean validation rows.
"""

from __future__ import annotations

import copy
import math

from torch import nn

from pipeline.core.device import chosen
from pipeline.core.minimum import Divergence, Settings, descend
from pipeline.core.rows import row_losses
from pipeline.steps.job import Job
from pipeline.steps.tasks import derive, model_at, task_of, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.weights import save_weights
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

PASSES = 16
"""Over the train rows: GEX's 800 steps of 1,024 rows on its 50,000."""
RATES = tuple(0.0125 * 2**i for i in range(9))
BATCH_ROWS = 256
"""Rows whose losses are computed at once."""


def run(job: Job) -> None:
    """Write `checkpoints/geometric-<number>.safetensors`, one after the other."""
    use_threads(job.config)
    section, plan = job.config.ensemble, job.plan()
    task = task_of(job.config, plan)
    rows, validation = (row_set(task, split, chosen(job.config.compute.device)) for split in ("train", "validation"))
    model = model_at(task, job.layout, "trained", rows.device)
    identity = {"trained": read_manifest(job.layout.checkpoint("trained")).digest, "ensemble": section.plain(),
                "seed": job.config.seed, "content": plan.splits["validation"].content}  # fmt: skip
    steps = section.steps if section.steps != "auto" else max(1, round(PASSES * len(rows) / section.batch_rows))

    def descent(name: str, rate: float) -> Settings:
        """To a member."""
        return Settings(
            method="plain", strength=0.0, steps=steps, learning_rate=rate, momentum=section.momentum, weight_decay=0.0,
            batch_rows=section.batch_rows, noise_parts=1, noise_growth=1.0, optimizer="sgd",
            seed=derive(job.config.seed, name),
        )  # fmt: skip

    rate = section.learning_rate
    if rate == "auto":
        rate = _rate(job, task, model, rows, validation, [descent(section.names[0], each) for each in RATES])
    for name in section.names:
        progress = job.progress(name, steps, "steps")
        for _ in descend(model, task.loss, rows, descent(name, rate)):
            progress.add()
        with job.writing(job.layout.checkpoint(name), "checkpoint", {**identity, "member": name}) as (path, record):
            save_weights(path, model)
            record.update(rows=len(rows), steps=steps, learning_rate=rate)


def _rate(job: Job, task: Task, model: nn.Module, rows: RowSet, validation: RowSet, descents: list[Settings]) -> float:
    """The learning rate of the descent that ends at the least loss of the validation rows; the model stays."""
    losses: dict[float, float] = {}
    progress = job.progress("learning rates", len(descents))
    for descent in descents:
        losses[descent.learning_rate] = _loss_after(copy.deepcopy(model), task, rows, validation, descent)
        progress.add()
    best = min(losses, key=lambda rate: losses[rate])
    said = ", ".join(f"{loss:.3f} ({rate:g})" for rate, loss in losses.items())
    job.say(f"learning rate {best:g}; loss of validation rows after one member (rate): {said}")
    return best


def _loss_after(model: nn.Module, task: Task, rows: RowSet, validation: RowSet, descent: Settings) -> float:
    """Mean loss of the validation rows after a descent, nats; infinite where it fell apart."""
    try:
        for _ in descend(model, task.loss, rows, descent):
            pass
    except Divergence:
        return math.inf
    losses = row_losses(model, task.loss, validation, BATCH_ROWS)
    known = losses[losses.isfinite()]
    return float(known.mean()) if len(known) else math.inf
