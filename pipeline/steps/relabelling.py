"""Relabelling: S of the train rows under every label, and the label that disturbs the validation set least.

S under every label takes C quadratic forms a row, and follows from the codes and the curvature of the validation rows
alone: for shards whose codes are as they were, under a curvature that is, it is taken over from the former table.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.influence import relabel
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.steps.code import stands_for
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet, CodeShard
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_candidates
from pipeline.storage.artefact import Manifest, kept_manifest
from pipeline.storage.reduction import each
from pipeline.storage.tables import read_arrays

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

UNKNOWN = -1
"""Label of a row without candidates."""


def relabelled(job: Job, labels: Array) -> dict[str, Any]:
    """Columns by position: suggested and predicted labels, margins and S under every label, for given labels [N].

    Rows without candidates, and those that take part in no answer, keep -1 and NaN.
    """
    plan = job.plan()
    candidates = open_candidates(job.layout, plan, "flat", "train")
    preconditioner, curvature = open_preconditioner(job.layout, "flat", "validation")
    found = _former(job, candidates, curvature, len(plan.classes))
    fresh = [shard for shard in candidates.shards if (found["predicted"][_counted(shard)] == UNKNOWN).any()]
    _compute(job, CodeSet(tuple(fresh), candidates.rows), preconditioner, found)
    known = found["predicted"] != UNKNOWN
    suggested, margin = np.full(len(labels), UNKNOWN), np.full(len(labels), np.nan)
    suggested[known], margin[known] = relabel(found["s"][known], labels[known])
    return {"suggested": suggested, "margin": margin, "predicted": found["predicted"], "s_by_label": found["s"]}


def _counted(shard: CodeShard) -> Array:
    """Positions of a shard's rows that take part in answers."""
    return shard.positions[shard.counted]


def _former(job: Job, candidates: CodeSet, curvature: Manifest, classes: int) -> Columns:
    """S under every label [N, C] and predictions [N], as far as the former table has them of the present codes."""
    found = {"s": np.full((candidates.rows, classes), np.nan), "predicted": np.full(candidates.rows, UNKNOWN)}
    if (table := _table(job, curvature)) is None:
        return found
    manifest, columns = table
    for shard in candidates.shards:
        if shard.manifest.digest in manifest.identity["candidates"]:
            rows = _counted(shard)
            found["s"][rows], found["predicted"][rows] = columns["s_by_label"][rows], columns["predicted"][rows]
    return found


def _table(job: Job, curvature: Manifest) -> tuple[Manifest, Columns] | None:
    """The former table, if its S was made under this curvature, and as it would be now."""
    manifest = kept_manifest(job.layout.scores, "scores")
    if manifest is None or manifest.identity["curvature"][0] != curvature.digest:
        return None
    if not stands_for(job.stage, manifest.record["code"], job.config, job.layout.run):
        return None
    try:
        return manifest, read_arrays(job.layout.scores, ["s_by_label", "predicted"])
    except StoreError:  # of a task that knew no labels
        return None


def _compute(job: Job, candidates: CodeSet, preconditioner: Preconditioner, found: Columns) -> None:
    """The columns of some shards, into their places."""
    parts = candidates.parts()
    progress = job.progress("relabelling", len(parts), "blocks")
    columns = each(relabel_part, parts, job.workers(), (preconditioner,), BLOCK_HELD_BYTES, progress.add)
    for part, values in zip(parts, columns, strict=True):
        counted = part.shard.counted[part.rows]
        rows = part.shard.positions[part.rows][counted]
        for name in found:
            found[name][rows] = values[name][counted]


def relabel_part(block: CodeBlock, preconditioner: Preconditioner) -> Columns:
    """S under every label, [n, C], and the label of least loss, [n], of a block's rows, piece by piece in float64."""
    s, predicted = [], []
    for rows, codes in block.pieces():
        forms = preconditioner.forms(codes.astype(np.float64).reshape(-1, codes.shape[-1]))
        s.append(forms.s.reshape(codes.shape[:2]))
        predicted.append(block.shard.read("loss", rows).argmin(1))
    return {"s": np.concatenate(s), "predicted": np.concatenate(predicted)}
