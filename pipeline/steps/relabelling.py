"""Relabelling: S of the train rows under every label, and the label that disturbs the validation set least.

S under every label takes C quadratic forms a row, and follows from the row's codes and the curvature of the validation
rows alone: where both are as they were, it is taken over from the former table (`pipeline.steps.former`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.influence import relabel
from pipeline.core.preconditioner import Preconditioner
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet
from pipeline.steps.former import Former
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_candidates
from pipeline.storage.reduction import each

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

UNKNOWN = -1
"""Label of a row without candidates."""
TAKEN_OVER = ("predicted", "s_by_label")


@dataclass(frozen=True)
class Relabelled:
    """What relabelling says of N rows.

    Attributes:
        columns: by position: suggested and predicted labels, margins, S under every label, and hashes of the codes.
        computed: of how many rows S was computed, and not taken over.
    """

    columns: Columns
    computed: int


def relabelled(job: Job, labels: Array, former: Former) -> Relabelled:
    """For given labels [N]; rows without candidates, and those that take part in no answer, keep -1 and NaN."""
    plan = job.plan()
    candidates = open_candidates(job.layout, plan, "flat", "train")
    preconditioner, _ = open_preconditioner(job.layout, "flat", "validation")
    columns = {
        "predicted": np.full(candidates.rows, UNKNOWN),
        "s_by_label": np.full((candidates.rows, len(plan.classes)), np.nan),
        "label_codes": candidates.column("code_hash"),
    }
    counted = candidates.counted()
    known, values = former.of_rows("label_codes", columns["label_codes"], TAKEN_OVER)
    for name in values:
        columns[name][known & counted] = values[name][counted[known]]
    wanted = counted & (columns["predicted"] == UNKNOWN)
    _compute(job, candidates, preconditioner, columns, wanted)
    columns.update(suggested=np.full(len(labels), UNKNOWN), margin=np.full(len(labels), np.nan))
    columns["suggested"][counted], columns["margin"][counted] = relabel(columns["s_by_label"][counted], labels[counted])
    return Relabelled(columns, int(wanted.sum()))


@dataclass(frozen=True)
class Asked:
    """A block of rows, and which of them are asked for, [n] bool."""

    block: CodeBlock
    wanted: Array


def _compute(job: Job, candidates: CodeSet, preconditioner: Preconditioner, columns: Columns, wanted: Array) -> None:
    """The columns of the rows that are wanted, [N] bool, into their places."""
    every = [Asked(part, wanted[part.shard.positions[part.rows]]) for part in candidates.parts()]
    asked = [each for each in every if each.wanted.any()]
    progress = job.progress("relabelling", len(asked), "blocks")
    found = each(relabel_part, asked, job.workers(), (preconditioner,), BLOCK_HELD_BYTES, progress.add)
    for part, values in zip(asked, found, strict=True):
        rows = part.block.shard.positions[part.block.rows][part.wanted]
        for name in TAKEN_OVER:
            columns[name][rows] = values[name]


def relabel_part(asked: Asked, preconditioner: Preconditioner) -> Columns:
    """Label of least loss, [n], and S under every label, [n, C], of the rows asked for, piece by piece in float64."""
    predicted, s, first = [], [], asked.block.rows.start
    for rows, codes in asked.block.pieces(asked.wanted):
        wanted = asked.wanted[rows.start - first : rows.stop - first]
        chosen = codes[wanted].astype(np.float64)
        predicted.append(asked.block.shard.read("loss", rows)[wanted].argmin(1))
        s.append(preconditioner.forms(chosen.reshape(-1, chosen.shape[-1])).s.reshape(chosen.shape[:2]))
    return {"predicted": np.concatenate(predicted), "s_by_label": np.concatenate(s)}
