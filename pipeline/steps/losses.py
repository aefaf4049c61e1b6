"""Losses: of all rows at the members of the geometric ensemble, which is all that GEX asks of them."""

from __future__ import annotations

import numpy as np

from pipeline.core.device import chosen
from pipeline.core.rows import row_losses
from pipeline.errors import DataError
from pipeline.steps.job import Job
from pipeline.steps.tasks import model_at, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.checks import row_set

BATCH_ROWS = 256


def run(job: Job) -> None:
    """Write `losses/ensemble.zarr`: train [N, M], validation and query, in nats."""
    use_threads(job.config)
    names, task, device = job.config.ensemble.names, task_of(job.config, job.plan()), chosen(job.config.compute.device)
    splits = {split: row_set(task, split, device) for split, part in job.plan().splits.items() if part.rows}
    found: dict[str, list[np.ndarray]] = {split: [] for split in splits}
    for name in names:
        model = model_at(task, job.layout, name, device)
        for split, rows in splits.items():
            found[split].append(row_losses(model, task.loss, rows, BATCH_ROWS).numpy())
            _check(found[split][-1], name, split)
    identity = {"members": [read_manifest(job.layout.checkpoint(name)).digest for name in names],
                "content": {split: job.plan().splits[split].content for split in splits}}  # fmt: skip
    with job.writing(job.layout.losses, "losses", identity) as (path, _):
        write_arrays(path, {split: np.stack(columns, 1) for split, columns in found.items()})


def _check(losses: np.ndarray, name: str, split: str) -> None:
    """A row that is not finite at `trained` may stay so; a member at which all are is no model.

    Raises:
        DataError: no loss is finite.
    """
    if not np.isfinite(losses).any():
        raise DataError(f"expected finite losses of {split} rows at {name}, got none; lower ensemble.learning_rate")
