"""From batches of rows to codes: model, engine and projection of a checkpoint, set up once and used for every batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.config import Config
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import Codec
from pipeline.core.projection import Projection, Shapes, make
from pipeline.errors import InputError, LowlandError
from pipeline.shards import Plan
from pipeline.steps.job import Job
from pipeline.steps.stores import FINITE, NOT_FINITE, open_arrays
from pipeline.steps.tasks import attributed, model_at
from pipeline.storage.artefact import Manifest, read_manifest
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set

Array = np.ndarray[Any, Any]

PROBED_ROWS = 16


@dataclass(frozen=True)
class Captured:
    """What B rows gave: codes [B, K] float32, squared norms of the full gradients, losses, flags, each [B]."""

    codes: Array
    squared_norms: Array
    losses: Array
    flags: Array


@dataclass(frozen=True)
class Capturer:
    """A model at a checkpoint, with what captures and projects its gradients."""

    task: Task
    model: nn.Module
    coverage: Coverage
    projection: Projection
    left_out: list[str]

    def capture(self, batch: Any, rows: int) -> Captured:
        """The codes of a batch of `rows` rows; rows that are not finite are zero and flagged."""
        sketch = self.projection.sketch(rows, dtype=dtype_of(self.model), device=torch.device("cpu"))
        losses = self.coverage.engine.capture(batch, sketch).double().numpy()
        codes, norms = sketch.codes().float().numpy(), sketch.squared_norms().double().numpy()
        finite = np.isfinite(losses) & np.isfinite(norms) & np.isfinite(codes).all(1)
        codes = np.where(finite[:, None], codes, np.float32(0))
        return Captured(
            codes, np.where(finite, norms, 0.0), losses, np.where(finite, FINITE, NOT_FINITE).astype(np.uint8)
        )


def set_up(task: Task, layout: Layout, config: Config, checkpoint: str,
           project: Callable[[nn.Module, Coverage, Shapes], Projection]) -> Capturer:  # fmt: skip
    """Model and engine at a checkpoint, and the projection that `project` makes for them."""
    model = model_at(task, layout, checkpoint)
    shapes, left_out = attributed(model, config.gradients.include, config.gradients.exclude)
    coverage = cover(model, task.loss, tuple(shapes), _probe(task, model), config.gradients.engine)
    return Capturer(task, model, coverage, project(model, coverage, shapes), left_out)


def _probe(task: Task, model: nn.Module) -> Any:
    """Two of the first train rows, with finite losses where there are any: rows that are not finite prove nothing."""
    rows = row_set(task, "train")
    first = list(range(min(PROBED_ROWS, len(rows))))
    with torch.no_grad():
        losses = task.loss(model, rows.batch(first))
    finite = [row for row, loss in zip(first, losses.isfinite().tolist(), strict=True) if loss]
    return rows.batch((finite or first)[:2])


def set_up_fitted(task: Task, layout: Layout, config: Config, checkpoint: str) -> tuple[Capturer, Codec, Manifest]:
    """The same with the projection and codec that were fitted for the checkpoint."""
    manifest, arrays = open_arrays(layout.projection(checkpoint), "projection")
    method, dimension = (manifest.identity["projection"][key] for key in ("method", "dimension"))
    seed = manifest.identity["seed"]
    state = {name.removeprefix("state_"): arrays.read(name) for name in arrays.names() if name.startswith("state_")}
    capturer = set_up(task, layout, config, checkpoint,
                      lambda _, __, shapes: make(method, shapes, dimension, seed, state))  # fmt: skip
    return capturer, Codec(config.gradients.codec, arrays.read("column_scale")), manifest


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that codes are summed in: the model's, but at least float32, for sums of half precision lose digits."""
    own = next(model.parameters()).dtype
    return torch.float32 if own.itemsize < torch.float32.itemsize else own


def naming_rows(error: LowlandError, what: str, start: int, stop: int) -> LowlandError:
    """The error of a batch, with the rows that it met."""
    kind = type(error) if isinstance(error, InputError) else LowlandError
    return kind(f"{what}, rows {start} to {stop - 1}: {error}")


def plan_rows(plan: Plan, split: str, shard: str) -> range:
    """Positions of a planned shard's rows."""
    planned = plan.splits[split].shard(shard)
    return range(planned.start, planned.stop)


def shard_identity(job: Job, projection: Manifest, checkpoint: str, split: str, shard: str) -> dict[str, Any]:
    """What a store of a shard's codes is made from."""
    planned = job.plan().splits[split].shard(shard)
    return {
        "checkpoint": read_manifest(job.layout.checkpoint(checkpoint)).digest,
        "projection": projection.digest,
        "split": split,
        "shard": shard,
        "rows": {"start": planned.start, "stop": planned.stop, "content": planned.content},
        "gradients": job.config.gradients.plain(),
        "threads": job.config.compute.threads,
    }
