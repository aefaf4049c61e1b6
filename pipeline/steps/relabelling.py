"""Relabelling: S of the train rows under every label, and the label that disturbs the validation set least.

S under every label takes C quadratic forms a row, and follows from the row's codes and the curvature of the validation
rows alone: where both are as they were, it is taken over from the former table (`pipeline.steps.former`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.estimators import Estimator
from pipeline.core.influence import relabel
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet, CodeShard
from pipeline.steps.estimating import RunStores, fitted
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


@dataclass(frozen=True)
class UnderLabels:
    """A few rows under every label, one after the other: the codes of n rows and C labels are [n C, K]."""

    places: Array
    coded: Mapping[str, Array]
    shards: Mapping[str, CodeShard]
    part: slice

    @property
    def positions(self) -> Array:
        """See `pipeline.core.estimators.base.Rows`."""
        labels = len(next(iter(self.coded.values()))) // len(self.places)
        return np.repeat(self.places, labels)

    def codes(self, checkpoint: str) -> Array:
        """See `Rows`."""
        return self.coded[checkpoint]

    def column(self, checkpoint: str, name: str) -> Array:
        """See `Rows`."""
        return self.shards[checkpoint].read(name, self.part).ravel()

    def ensemble(self) -> Array:
        """See `Rows`: of no use here."""
        raise NotImplementedError


def best_labels(stores: RunStores, name: str, at: Sequence[str]) -> Array:
    """The label under which each train row would have helped the validation rows most, [N]; -1 where unknown.

    Args:
        stores: of the run.
        name: of an estimator whose score of rows is signed.
        at: the checkpoints where it is asked.

    Raises:
        StoreError: the stores hold gradients under some labels only.
    """
    sets = {checkpoint: open_candidates(stores.layout, stores.plan, checkpoint, "train") for checkpoint in at}
    first = sets[at[0]]
    if any(manifest.identity["labels"] != "all" for each in sets.values() for manifest in each.manifests):
        raise StoreError(
            f"expected gradients under all labels for {name}, got those under some; raise candidates.max_classes"
        )
    blocks = [({name: CodeBlock(each.shards[i], rows) for name, each in sets.items()})
              for i, shard in enumerate(first.shards) for rows in shard.blocks()]  # fmt: skip
    labels = np.full(first.rows, UNKNOWN)
    found = each(best_part, blocks, stores.workers, (fitted(stores, name, at),), len(at) * BLOCK_HELD_BYTES)
    for places, best in found:
        labels[places] = best
    labels[~np.logical_and.reduce([each.counted() for each in sets.values()])] = UNKNOWN
    return labels


def best_part(blocks: Mapping[str, CodeBlock], estimator: Estimator) -> tuple[Array, Array]:
    """Positions of a block's rows, and the label of the best score of each, [n]."""
    places, best = [], []
    for pieces in zip(*(block.pieces() for block in blocks.values()), strict=True):
        part = pieces[0][0]
        own = next(iter(blocks.values())).shard.positions[part]
        coded = {name: codes.reshape(-1, codes.shape[-1]).astype(np.float64)
                 for name, (_, codes) in zip(blocks, pieces, strict=True)}  # fmt: skip
        rows = UnderLabels(own, coded, {name: block.shard for name, block in blocks.items()}, part)
        best.append(estimator.rows(rows).reshape(len(own), -1).argmax(1))
        places.append(own)
    return np.concatenate(places), np.concatenate(best)


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
