"""Scores: one row a train sample: is it harmful, and what should its label be?

Every column is unsigned and larger for more suspicious rows, but `tracin` and `classical`, which are signed: positive
where the row helped the validation set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline.core.influence import relabel
from pipeline.core.preconditioner import Forms, Preconditioner
from pipeline.shards import Plan
from pipeline.steps.codes import BLOCK_HELD_BYTES, FINITE, NOT_FINITE, CodeBlock, CodeSet
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, open_preconditioner, open_vectors
from pipeline.steps.stores import open_candidates, open_codes, retired_of
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.storage.reduction import each
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
    return {
        **_by_position(job, "scoring at flat", forms_part, codes, (preconditioner,)),
        "loss_flat": codes.column("loss"),
        "norm_flat": codes.column("norm_full"),
    }


def _classical(job: Job, codes: CodeSet, preconditioner: Preconditioner, vectors: Vectors) -> dict[str, Array]:
    """Self-influence, and what the row does to the mean validation loss to first order, at the trained weights."""
    finite = vectors.finite()
    gradient = vectors.codes()[finite].mean(0)
    solved = vectors.solved()[finite].mean(0)
    shared = (preconditioner, gradient, solved)
    scores = _by_position(job, "scoring at trained", classical_part, codes, shared)
    return {"loss_trained": codes.column("loss"), **scores}


def _relabelling(job: Job, plan: Plan, preconditioner: Preconditioner, labels: Array) -> dict[str, Any]:
    """Suggested labels, margins and S under every label; rows without candidates keep -1 and NaN."""
    candidates = open_candidates(job.layout, plan, "flat", "train")
    suggested = np.full(candidates.rows, -1)
    predicted = np.full(candidates.rows, -1)
    margin = np.full(candidates.rows, np.nan)
    every = np.full((candidates.rows, len(plan.classes)), np.nan)
    if parts := candidates.parts():
        found = _mapped(job, "relabelling", relabel_part, candidates, (preconditioner,))
        counted = np.concatenate([part.shard.counted[part.rows] for part in parts])
        rows = np.concatenate([part.shard.positions[part.rows] for part in parts])[counted]
        scores = found["s"][counted]
        suggested[rows], margin[rows] = relabel(scores, labels[rows])
        predicted[rows] = found["predicted"][counted]
        every[rows] = scores
    return {"suggested": suggested, "margin": margin, "predicted": predicted, "s_by_label": list(every)}


def forms_part(block: CodeBlock, preconditioner: Preconditioner) -> dict[str, Array]:
    """S and W of a block's rows."""
    return _columns(block, lambda _, codes: _s_and_w(preconditioner.forms(codes)))


def _s_and_w(forms: Forms) -> dict[str, Array]:
    return {"s": forms.s, "w": forms.w}


def classical_part(
    block: CodeBlock, preconditioner: Preconditioner, gradient: Array, solved: Array
) -> dict[str, Array]:
    """Self-influence, and the products with the mean validation gradient, as it is and preconditioned."""

    def scores(_: slice, codes: Array) -> dict[str, Array]:
        own = preconditioner.forms(codes).s
        return {"self_influence": own, "tracin": codes @ gradient, "classical": codes @ solved}

    return _columns(block, scores)


def relabel_part(block: CodeBlock, preconditioner: Preconditioner) -> dict[str, Array]:
    """S under every label, [n, C], and the label of least loss."""

    def scores(rows: slice, codes: Array) -> dict[str, Array]:
        s = preconditioner.forms(codes.reshape(-1, codes.shape[-1])).s.reshape(codes.shape[:2])
        return {"s": s, "predicted": block.shard.read("loss", rows).argmin(1)}

    return _columns(block, scores)


def _columns(block: CodeBlock, scores: Callable[[slice, Array], dict[str, Array]]) -> dict[str, Array]:
    """Columns of a block, piece by piece; codes come in float64."""
    return _stacked([scores(rows, codes.astype(np.float64)) for rows, codes in block.pieces()])


def _mapped(job: Job, what: str, part: Callable[..., dict[str, Array]], codes: CodeSet,
            shared: tuple[Any, ...]) -> dict[str, Array]:  # fmt: skip
    """Columns of all stored rows, from those of blocks."""
    parts = codes.parts()
    progress = job.progress(what, len(parts), "blocks")
    return _stacked(each(part, parts, job.workers(), shared, BLOCK_HELD_BYTES, progress.add))


def _by_position(job: Job, what: str, part: Callable[..., dict[str, Array]], codes: CodeSet,
                 shared: tuple[Any, ...]) -> dict[str, Array]:  # fmt: skip
    """The same, by position in the split."""
    return {name: codes.spread(values) for name, values in _mapped(job, what, part, codes, shared).items()}


def _stacked(parts: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
