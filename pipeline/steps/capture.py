"""From batches of rows to codes: model, engine and projection of a checkpoint, set up once and used for every batch.

Where the parts of a loss are kept apart, each is captured by itself and goes through the same projection; the codes
[B, K] of the n parts stand side by side, [B, n K].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config import Config
from pipeline.core.capture.afford import Afford, unlimited
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import Codec
from pipeline.core.device import chosen, in_precision, settled
from pipeline.core.projection import Norms, Projection, Shapes, make
from pipeline.errors import InputError, LowlandError
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.job import Job
from pipeline.steps.tasks import attributed, model_at
from pipeline.storage.artefact import Manifest, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.checks import row_set

Array = np.ndarray[Any, Any]

PROBED_ROWS = 16
SAFE_SQUARE = 1e30
"""Codes of a gradient whose squared norm is less are finite: 23 orders of magnitude below what float32 holds."""


@dataclass(frozen=True)
class Captured:
    """What B rows gave; K numbers of all parts together.

    Attributes:
        codes: [B, K] float32.
        squared_norms: of the full gradients, [B] float64: exact or unbiased estimates; of separate parts their sum,
            before any normalisation.
        norm_errors: standard errors of the norms (not squared), or more, [B] float64; zero where exact.
        losses: nats, [B] float64.
        flags: [B] uint8.
    """

    codes: Array
    squared_norms: Array
    norm_errors: Array
    losses: Array
    flags: Array


@dataclass(frozen=True)
class Capturer:
    """A model at a checkpoint, with what captures and projects its gradients.

    Attributes:
        parts: codes of a row that stand side by side.
        normalised: whether each part's gradient is brought to length 1.
    """

    task: Task
    model: nn.Module
    coverage: Coverage
    projection: Projection
    left_out: list[str]
    norms: Norms
    parts: int = 1
    normalised: bool = False

    @property
    def dimension(self) -> int:
        """Numbers of a row's code."""
        return self.parts * self.projection.dimension

    def capture(self, batch: Any, rows: int) -> Captured:
        """The codes of a batch of `rows` rows; rows that are not finite are zero and flagged."""
        found = [self._part(piece, rows) for piece in pieces(self.task, batch, self.parts)]
        codes = found[0].codes if len(found) == 1 else np.concatenate([part.codes for part in found], 1)
        losses, norms, errors = (sum(values) for values in zip(*(part.numbers for part in found), strict=True))
        finite = np.isfinite(losses) & np.isfinite(norms)
        if not (norms < SAFE_SQUARE).all():
            finite &= finite_rows(codes)
        norms = np.where(finite, norms, 0.0)
        if not finite.all():
            codes = np.where(finite[:, None], codes, np.float32(0))
        # d |g| = d |g|^2 / (2 |g|); where nothing is left of the norm, its error is that of the root.
        spread = np.where(finite, errors, 0.0)
        errors = np.minimum(np.sqrt(spread), spread / np.maximum(2 * np.sqrt(norms), np.finfo(np.float64).tiny))
        return Captured(codes, norms, errors, losses, np.where(finite, FINITE, NOT_FINITE).astype(np.uint8))

    def _part(self, batch: Any, rows: int) -> _Part:
        norms: Norms = "exact" if self.normalised else self.norms
        sketch = self.projection.sketch(rows, dtype_of(self.model), device_of(self.model), norms)
        losses = _array(self.coverage.engine.capture(batch, sketch))
        codes, squares = sketch.codes().float().cpu().numpy(), _array(sketch.squared_norms())
        if self.normalised:
            codes = codes / np.sqrt(np.where(squares > 0, squares, 1.0)).astype(np.float32)[:, None]
        return _Part(codes, (losses, squares, _array(sketch.squared_norm_errors())))


@dataclass(frozen=True)
class _Part:
    """One part of B rows: codes [B, K]; losses, squared norms and their standard errors, [B] each, to be added up.

    Errors of parts that share random numbers do not cancel, so their sum is the bound.
    """

    codes: Array
    numbers: tuple[Array, Array, Array]


def pieces(task: Task, batch: Batch, parts: int) -> list[Batch]:
    """A batch as it is captured: whole, or each part of its loss by itself."""
    return [batch] if parts == 1 else [task.loss_part(batch, i) for i in range(parts)]


def parts_of(task: Task, config: Config) -> int:
    """How many codes of a row stand side by side."""
    return task.loss_parts if config.gradients.parts == "separate" else 1


def finite_rows(codes: Array) -> Array:
    """Rows of [B, K] without infinity or NaN, [B]; every number is looked at only where a row's sum is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        finite: Array = np.asarray(np.isfinite(codes @ np.ones(codes.shape[1], codes.dtype)))  # twice as fast as a sum
    return finite if finite.all() else np.asarray(np.isfinite(codes).all(1))


def _array(values: Tensor) -> Array:
    return values.cpu().double().numpy()


def set_up(task: Task, layout: Layout, config: Config, checkpoint: str,
           project: Callable[[nn.Module, Coverage, Shapes], Projection], afford: Afford = unlimited
           ) -> Capturer:  # fmt: skip
    """Model and engine at a checkpoint, and the projection that `project` makes for them; `afford` as in `cover`."""
    device = chosen(config.compute.device)
    model = model_at(task, layout, checkpoint, device)
    shapes, left_out = attributed(model, config.gradients.include, config.gradients.exclude)
    loss = in_precision(task.loss, device, settled(config.compute.precision, device))
    parts = parts_of(task, config)
    probe = pieces(task, _probe(task, model), parts)[0]
    coverage = cover(model, loss, tuple(shapes), probe, config.gradients.engine, afford)
    projection, normalised = project(model, coverage, shapes), config.gradients.normalise == "part"
    return Capturer(task, model, coverage, projection, left_out, config.gradients.norms, parts, normalised)


def _probe(task: Task, model: nn.Module) -> Any:
    """Two of the first train rows, with finite losses where there are any: rows that are not finite prove nothing."""
    rows = row_set(task, "train", device_of(model))
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


def stored_columns(codec: Codec, captured: Captured) -> dict[str, Array]:
    """The columns of a gradient store for a captured batch, [B, ...] each; see `pipeline.steps.gradients`."""
    stored, norms = codec.encode_with_norms(captured.codes)
    return {
        **stored.columns(),
        "norm_code": norms,
        "norm_full": np.sqrt(captured.squared_norms),
        "norm_full_error": captured.norm_errors,
        "loss": captured.losses,
        "flag": captured.flags,
    }


def device_of(model: nn.Module) -> torch.device:
    """Where a model is."""
    return next(model.parameters()).device


def dtype_of(model: nn.Module) -> torch.dtype:
    """The dtype that codes are summed in: the model's, but at least float32, for sums of half precision lose digits."""
    own = next(model.parameters()).dtype
    return torch.float32 if own.itemsize < torch.float32.itemsize else own


def naming_rows(error: LowlandError, what: str, start: int, stop: int) -> LowlandError:
    """The error of a batch, with the rows that it met."""
    kind = type(error) if isinstance(error, InputError) else LowlandError
    return kind(f"{what}, rows {start} to {stop - 1}: {error}")


def shard_identity(job: Job, projection: Manifest, checkpoint: str, split: str, shard: str) -> dict[str, Any]:
    """What a store of a shard's codes is made from."""
    planned = job.plan().splits[split].shard(shard)
    return {
        "checkpoint": read_manifest(job.layout.checkpoint(checkpoint)).digest,
        "projection": projection.digest,
        "split": split,
        "shard": shard,
        "rows": planned.plain(),
        "gradients": job.config.gradients.plain(),
        "threads": job.config.compute.threads,
        "precision": settled(job.config.compute.precision, chosen(job.config.compute.device)),
    }
