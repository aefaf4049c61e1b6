"""Candidates: gradients of a shard's rows under labels that are not their own, for relabelling and for the GGN.

Which labels: all C classes; or, for the GGN of many classes, labels drawn from the model's own predictions, from a
stream of each row. Which rows: all, or only the suspects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.config import Config
from pipeline.core.codec import Codec
from pipeline.provenance import digest_bytes
from pipeline.shards import Plan
from pipeline.steps.capture import Capturer, device_of, plan_rows, set_up_fitted, shard_identity
from pipeline.steps.job import Job
from pipeline.steps.memory import candidate_rows, plan_of
from pipeline.steps.stores import FINITE, NOT_FINITE, open_arrays
from pipeline.steps.tasks import task_of, use_threads
from pipeline.storage.arrays import ArrayWriter
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.base import Batch
from pipeline.tasks.checks import row_set

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
    position (in the split) and flag, each [n].
    """
    use_threads(job.config)
    plan = job.plan()
    positions = plan_rows(plan, split, shard)
    chosen = _chosen(job, plan, checkpoint, split, positions)
    capturer, codec, projection = set_up_fitted(task_of(job.config, plan), job.layout, job.config, checkpoint)
    sampled = labels_are_sampled(job.config, plan, checkpoint, split)
    suspects = only_suspects(job.config, plan, checkpoint, split)
    identity = shard_identity(job, projection, checkpoint, split, shard) | {
        "chosen": read_manifest(job.layout.suspects).digest if suspects else "all",
        "labels": ["sampled", job.config.candidates.sampled_labels, job.config.seed] if sampled else "all",
    }
    store = job.layout.candidates(checkpoint, split, shard)
    labels = job.config.candidates.sampled_labels if sampled else len(plan.classes)
    size = candidate_rows(job, plan_of(projection), labels, codec)
    with job.writing(store, "candidates", identity) as (path, record), ArrayWriter(path) as writer:
        _write(job, writer, capturer, codec, split, chosen, sampled, size)
        record["batch_rows"] = size


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


def _chosen(job: Job, plan: Plan, checkpoint: str, split: str, positions: range) -> list[int]:
    if not only_suspects(job.config, plan, checkpoint, split):
        return list(positions)
    _, arrays = open_arrays(job.layout.suspects, "suspects")
    suspects = arrays.read("position")
    return [int(p) for p in suspects[(suspects >= positions.start) & (suspects < positions.stop)]]


def _write(
    job: Job, writer: ArrayWriter, capturer: Capturer, codec: Codec, split: str, chosen: list[int], sampled: bool,
    size: int,
) -> None:  # fmt: skip
    dataset = row_set(capturer.task, split, device_of(capturer.model))
    _, hash_arrays = open_arrays(job.layout.hashes, "rows")
    hashes = hash_arrays.read(split)
    progress = job.progress(f"{split} candidates", len(chosen))
    for start in range(0, len(chosen), size):
        picked = chosen[start : start + size]
        batch = dataset.batch(picked)
        probabilities = _probabilities(capturer, batch)
        if sampled:
            labels = _sample(probabilities, hashes[picked], job.config.candidates.sampled_labels, job.config.seed)
        else:
            labels = Labels(np.tile(np.arange(probabilities.shape[1]), (len(picked), 1)), probabilities)
        for name, column in _columns(capturer, codec, batch, labels).items():
            writer.append(name, column, total=len(chosen))
        writer.append("position", np.asarray(picked, np.int64), total=len(chosen))
        progress.add(len(picked))
    if not chosen:
        _write_empty(writer, codec)


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
    writer.append("flag", np.zeros(0, np.uint8), total=0)
    writer.append("position", np.zeros(0, np.int64), total=0)
