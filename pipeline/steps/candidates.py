"""Candidates: gradients of a shard's rows under labels that are not their own, for relabelling and for the GGN.

Which labels: all C classes; or, for the GGN of many classes, labels drawn from the model's own predictions, from a
stream of each row. Which rows: all, or only the suspects. Rows that the former store of the shard holds already are
copied from it (`pipeline.steps.reuse`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pipeline.config import Config
from pipeline.core.codec import Codec
from pipeline.provenance import digest_bytes
from pipeline.shards import Plan
from pipeline.steps import reuse
from pipeline.steps.capture import Capturer, device_of, set_up_fitted, shard_identity
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.job import Job
from pipeline.steps.memory import candidate_rows, plan_of
from pipeline.steps.stores import open_codec
from pipeline.steps.tasks import task_of, use_threads
from pipeline.storage.arrays import ArrayWriter
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.tasks.base import Batch
from pipeline.tasks.checks import row_set
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]


LABEL_COLUMNS = {"loss": np.float64, "label": np.int32, "weight": np.float32}
"""What is stored of a label beside its code, [n, L] each."""


@dataclass(frozen=True)
class Labels:
    """The labels under which rows are captured: [B, L] classes and the weight of each, [B, L]."""

    classes: Array
    weights: Array


def run(job: Job, checkpoint: str, split: str, shard: str) -> None:
    """Write `candidates/<checkpoint>/<split>/<shard>.zarr`.

    Arrays: codes [n, L, K], row_scale, loss, label, weight (p_c of the model, or 1/L for sampled labels), each [n, L];
    position (in the split), flag and code_hash, each [n]; content [n, 16].
    """
    use_threads(job.config)
    plan = job.plan()
    chosen = _chosen(job, plan, checkpoint, split, plan.splits[split].shard(shard).positions)
    codec, projection = open_codec(job.layout, checkpoint)
    sampled = labels_are_sampled(job.config, plan, checkpoint, split)
    suspects = only_suspects(job.config, plan, checkpoint, split)
    identity = shard_identity(job, projection, checkpoint, split, shard) | {
        "chosen": read_manifest(job.layout.suspects).digest if suspects else "all",
        "labels": ["sampled", job.config.candidates.sampled_labels, job.config.seed] if sampled else "all",
    }
    store = job.layout.candidates(checkpoint, split, shard)
    older = reuse.older(job, store, "candidates", identity)
    labels = job.config.candidates.sampled_labels if sampled else len(plan.classes)
    size = candidate_rows(job, plan_of(projection), labels, codec)
    with job.writing(store, "candidates", identity) as (path, record), ArrayWriter(path) as writer:
        work = Work(job, checkpoint, split, codec, sampled)
        copied = _write(work, writer, older, np.array(chosen, np.int64), size, labels)
        record.update(batch_rows=size, rows=len(chosen), copied=copied)


@dataclass(frozen=True)
class Work:
    """What captures under labels; the model is set up when the first row is captured."""

    job: Job
    checkpoint: str
    split: str
    codec: Codec
    sampled: bool

    @cached_property
    def capturer(self) -> Capturer:
        """The model at the checkpoint."""
        task = task_of(self.job.config, self.job.plan())
        return set_up_fitted(task, self.job.layout, self.job.config, self.checkpoint)[0]

    @cached_property
    def rows(self) -> RowSet:
        """The rows of the split, where the model is."""
        return row_set(self.capturer.task, self.split, device_of(self.capturer.model))

    def columns(self, positions: Array, hashes: Array) -> reuse.Columns:
        """What is stored of the rows at these positions."""
        batch = self.rows.batch([int(position) for position in positions])
        probabilities = _probabilities(self.capturer, batch)
        if self.sampled:
            config = self.job.config
            labels = _sample(probabilities, hashes, config.candidates.sampled_labels, config.seed)
        else:
            labels = Labels(np.tile(np.arange(probabilities.shape[1]), (len(positions), 1)), probabilities)
        return reuse.with_hashes(_columns(self.capturer, self.codec, batch, labels), hashes)


def relabels(checkpoint: str, split: str) -> bool:
    """Whether candidates serve relabelling; all others are root rows of a GGN."""
    return (checkpoint, split) == ("flat", "train")


def labels_are_sampled(config: Config, plan: Plan, checkpoint: str, split: str) -> bool:
    """Labels of a GGN's root rows are sampled where the classes are too many; relabelling needs them all."""
    return not relabels(checkpoint, split) and len(plan.classes) > config.candidates.max_classes


def only_suspects(config: Config, plan: Plan, checkpoint: str, split: str) -> bool:
    """Whether only the suspects among the rows get candidates; a GGN needs all rows."""
    few = config.candidates.rows == "suspects" or len(plan.classes) > config.candidates.max_classes
    return relabels(checkpoint, split) and few


def _chosen(job: Job, plan: Plan, checkpoint: str, split: str, positions: list[int]) -> list[int]:
    if not only_suspects(job.config, plan, checkpoint, split):
        return positions
    _, arrays = open_arrays(job.layout.suspects, "suspects")
    return sorted({int(p) for p in arrays.read("position")} & set(positions))


def _write(work: Work, writer: ArrayWriter, older: reuse.Older | None, chosen: Array, size: int, labels: int) -> int:
    """Capture or copy the chosen rows, `size` captured ones at a time. Returns how many were copied."""
    _, hash_arrays = open_arrays(work.job.layout.hashes, "rows")
    hashes = hash_arrays.read(work.split)[chosen]
    found = reuse.found_in([older], hashes)[0]
    fresh, most = found < 0, reuse.most_rows(work.codec.row_bytes * labels, size)
    progress = work.job.progress(f"{work.split} candidates", len(chosen))
    for part in reuse.windows(fresh, size, most):
        new, at = fresh[part], chosen[part]
        captured = work.columns(at[new], hashes[part][new]) if new.any() else None
        copied = older.columns(found[part][~new]) if older and not new.all() else None
        for name, column in {**reuse.merged(captured, copied, new), "position": at}.items():
            writer.append(name, column, total=len(chosen))
        progress.add(len(at))
    if not len(chosen):
        _write_empty(writer, work.codec)
    return int((~fresh).sum())


def _columns(capturer: Capturer, codec: Codec, batch: Batch, labels: Labels) -> dict[str, Array]:
    """Codes and what goes with them for all labels of a batch."""
    (rows, count), device = labels.classes.shape, device_of(capturer.model)
    stored, losses, flags = [], [], np.full(rows, FINITE, np.uint8)
    for i in range(count):
        relabelled = capturer.task.relabel(batch, torch.from_numpy(labels.classes[:, i].copy()).to(device))
        captured = capturer.capture(relabelled, rows)
        stored.append(codec.encode(captured.codes).columns())
        losses.append(captured.losses)
        flags = np.where(captured.flags == FINITE, flags, NOT_FINITE).astype(np.uint8)
    return {
        **{name: np.stack([columns[name] for columns in stored], 1) for name in stored[0]},
        "loss": np.stack(losses, 1),
        "label": labels.classes.astype(np.int32),
        "weight": labels.weights.astype(np.float32),
        "flag": flags,
    }


def _probabilities(capturer: Capturer, batch: Batch) -> Array:
    with torch.no_grad():
        logits = capturer.task.logits(capturer.model, batch)
    return torch.softmax(logits.cpu().double(), 1).numpy()


def _sample(probabilities: Array, hashes: Array, count: int, seed: int) -> Labels:
    """`count` labels a row, drawn from its probabilities by a stream of (seed, row content)."""
    drawn = np.empty((len(probabilities), count), np.int64)
    for i, (p, row) in enumerate(zip(probabilities, hashes, strict=True)):
        stream = np.random.default_rng(int(digest_bytes(str(seed).encode(), b"ggn labels", bytes(row)), 16))
        drawn[i] = np.minimum(np.searchsorted(np.cumsum(p), stream.random(count) * p.sum()), len(p) - 1)
    return Labels(drawn, np.full(drawn.shape, 1 / count))


def _write_empty(writer: ArrayWriter, codec: Codec) -> None:
    """The arrays of a shard that has no suspects."""
    empty = codec.encode(np.zeros((0, 1, len(codec.column_scale)), np.float32)).columns()
    empty |= {name: np.zeros((0, 1), dtype) for name, dtype in LABEL_COLUMNS.items()}
    for name, values in empty.items():
        writer.append(name, values, total=0)
    rest: dict[str, Array] = {
        "flag": np.zeros(0, np.uint8),
        "position": np.zeros(0, np.int64),
        "content": np.zeros((0, 16), np.uint8),
        "code_hash": np.zeros(0, np.uint64),
    }
    for name, column in rest.items():
        writer.append(name, column, total=0)
