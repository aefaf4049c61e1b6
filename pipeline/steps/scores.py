"""Scores: one row a train sample: is it harmful, and what should its label be?

Every column is unsigned and larger for more suspicious rows, but `tracin` and `classical`, which are signed: positive
where the row helped the validation set.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.influence import relabel
from pipeline.core.preconditioner import Preconditioner
from pipeline.shards import Plan
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, open_preconditioner, open_vectors
from pipeline.steps.stores import (
    FINITE,
    NOT_FINITE,
    CodeSet,
    open_arrays,
    open_candidates,
    open_codes,
    retired_of,
)
from pipeline.storage.artefact import read_manifest
from pipeline.storage.tables import write_table

Array = np.ndarray[Any, Any]

RETIRED = 2
"""Flag of a row that takes part in no answer."""

NOTES = {
    "s": "unsigned: g^T (C + lambda)^-1 g at flat, C of the validation rows (FVM, set level); larger: more harmful",
    "w": "unsigned: g^T H^-1 C H^-1 g at flat, the mean of the single-point form over the validation rows",
    "loss_flat": "control: the loss at flat, nats",
    "loss_trained": "control: the loss at trained, nats",
    "norm_flat": "control: norm of the full gradient at flat",
    "self_influence": "unsigned: g^T (C + lambda)^-1 g at trained, C of the train rows",
    "tracin": "signed: mean over validation rows of g_val^T g at trained (last checkpoint); positive: helped",
    "classical": "signed: mean over validation rows of g_val^T (C + lambda)^-1 g at trained; positive: helped",
    "suggested": "argmin over labels c of S(x, c); -1 where unknown",
    "margin": "S(given label) - S(suggested label)",
    "predicted": "argmin over labels c of the loss at flat: the prediction there; -1 where unknown",
    "flag": "1: loss or gradient not finite, 2: retired; no score",
}


def run(job: Job) -> None:
    """Write `scores/scores.parquet`."""
    plan = job.plan()
    flat, trained = (open_codes(job.layout, plan, name, "train") for name in ("flat", "trained"))
    at_flat, flat_curvature = open_preconditioner(job.layout, "flat", "validation")
    at_trained, trained_curvature = open_preconditioner(job.layout, "trained", "train")
    _, hashes = open_arrays(job.layout.hashes, "rows")
    labels = hashes.read("train_label")
    finite, retired = flat.finite() & trained.finite(), np.isin(np.arange(flat.rows), plan.retired)
    counted = finite & ~retired
    columns: dict[str, Any] = {
        "row": np.arange(flat.rows),
        "content": [bytes(row).hex() for row in hashes.read("train")],
        "given": labels,
        **_harm(job, flat, at_flat),
        **_classical(job, trained, at_trained, open_vectors(job.layout, "trained", "validation")),
        "flag": np.where(retired, RETIRED, np.where(finite, FINITE, NOT_FINITE)).astype(np.int8),
    }
    if plan.labelled:
        columns.update(_relabelling(job, plan, at_flat, labels))
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
            columns[name] = np.where(counted, values, np.nan)
    identity = {
        "gradients": [flat.digests(), trained.digests()],
        "curvature": [flat_curvature.digest, trained_curvature.digest],
        "candidates": open_candidates(job.layout, plan, "flat", "train").digests() if plan.labelled else [],
        "rows": read_manifest(job.layout.hashes).digest,
        "retired": retired_of(plan, "train"),
    }
    with job.writing(job.layout.scores, "scores", identity) as (path, record):
        write_table(path, columns, NOTES)
        record["flagged"] = [int(i) for i in np.nonzero(~finite & ~retired)[0]]


def _harm(job: Job, codes: CodeSet, preconditioner: Preconditioner) -> dict[str, Array]:
    """FVM at set level and its controls, at the flat minimum."""
    progress = job.progress("scoring at flat", codes.rows)
    s, w = [], []
    for shard in codes.shards:
        forms = preconditioner.forms(shard.codes())
        s.append(forms.s)
        w.append(forms.w)
        progress.add(len(forms.s))
    return {
        "s": codes.spread(np.concatenate(s)),
        "w": codes.spread(np.concatenate(w)),
        "loss_flat": codes.column("loss"),
        "norm_flat": codes.column("norm_full"),
    }


def _classical(job: Job, codes: CodeSet, preconditioner: Preconditioner, vectors: Vectors) -> dict[str, Array]:
    """Self-influence, and what the row does to the mean validation loss to first order, at the trained weights."""
    progress = job.progress("scoring at trained", codes.rows)
    finite = vectors.finite()
    gradient = vectors.codes()[finite].mean(0)
    solved = vectors.solved()[finite].mean(0)
    own, tracin, classical = [], [], []
    for shard in codes.shards:
        rows = shard.codes().astype(np.float64)
        own.append(preconditioner.forms(rows).s)
        tracin.append(rows @ gradient)
        classical.append(rows @ solved)
        progress.add(len(rows))
    return {
        "loss_trained": codes.column("loss"),
        "self_influence": codes.spread(np.concatenate(own)),
        "tracin": codes.spread(np.concatenate(tracin)),
        "classical": codes.spread(np.concatenate(classical)),
    }


def _relabelling(job: Job, plan: Plan, preconditioner: Preconditioner, labels: Array) -> dict[str, Any]:
    """Suggested labels, margins and S under every label; rows without candidates keep -1 and NaN."""
    candidates = open_candidates(job.layout, plan, "flat", "train")
    suggested = np.full(candidates.rows, -1)
    predicted = np.full(candidates.rows, -1)
    margin = np.full(candidates.rows, np.nan)
    every = np.full((candidates.rows, len(plan.classes)), np.nan)
    progress = job.progress("relabelling", candidates.rows)
    for shard in candidates.shards:
        for block in shard.blocks():
            kept = shard.counted[block]
            rows, codes = shard.positions[block][kept], shard.codes(block)[kept]
            if len(rows):
                scores = preconditioner.forms(codes.reshape(-1, codes.shape[-1])).s.reshape(codes.shape[:2])
                suggested[rows], margin[rows] = relabel(scores, labels[rows])
                predicted[rows] = shard.read("loss", block)[kept].argmin(1)
                every[rows] = scores
            progress.add(len(rows))
    return {"suggested": suggested, "margin": margin, "predicted": predicted, "s_by_label": list(every)}
