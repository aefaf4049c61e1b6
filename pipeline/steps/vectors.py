"""Vectors: the gradients of a split's rows at a checkpoint, as they are and preconditioned, in float64.

One set a split serves every later question: from here on nothing needs the model. While the curvature stays the same,
rows that were solved before are copied: new query rows need only their own vectors.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.core.preconditioner import Preconditioner
from pipeline.steps.code import stands_for
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import Arrays, ArrayWriter
from pipeline.storage.artefact import kept_manifest

Array = np.ndarray[Any, Any]


def run(job: Job, checkpoint: str, split: str) -> None:
    """Write `vectors/<checkpoint>-<split>.zarr`: code and solved, [n, K] each, flag and code_hash, [n] each."""
    preconditioner, curvature = open_preconditioner(job.layout, checkpoint, CURVATURE_SPLIT[checkpoint])
    codes = open_codes(job.layout, job.plan(), checkpoint, split)
    path = job.layout.vectors(checkpoint, split)
    older = _older(job, checkpoint, split, curvature.digest)
    identity = {"curvature": curvature.digest, "gradients": codes.digests(), "split": split}
    copied = 0
    with job.writing(path, "vectors", identity) as (place, record), ArrayWriter(place) as writer:
        for shard in codes.shards:
            decoded, hashes = shard.codes().astype("float64"), shard.read("code_hash")
            solved, taken = _solved(preconditioner, older, decoded, hashes)
            copied += taken
            columns = {"code": decoded, "solved": solved, "flag": shard.read("flag"), "code_hash": hashes}
            for name, values in columns.items():
                writer.append(name, values, total=codes.rows)
        record.update(rows=codes.rows, copied=copied)


def _older(job: Job, checkpoint: str, split: str, curvature: str) -> tuple[Arrays, dict[int, int]] | None:
    """The former vectors, if the same curvature solved them, and where each code is in them."""
    path = job.layout.vectors(checkpoint, split)
    manifest = kept_manifest(path, "vectors")
    if manifest is None or manifest.identity["curvature"] != curvature or manifest.identity["split"] != split:
        return None
    if not stands_for(job.stage, manifest.record["code"], job.config, job.layout.run):
        return None
    arrays = Arrays(path)
    return arrays, {int(code): row for row, code in enumerate(arrays.read("code_hash"))}


def _solved(
    preconditioner: Preconditioner, older: tuple[Arrays, dict[int, int]] | None, codes: Array, hashes: Array
) -> tuple[Array, int]:
    """u = H^-1 g of some rows, [n, K], and how many were copied."""
    if older is None:
        return preconditioner.solve(codes), 0
    arrays, at = older
    found = np.array([at.get(int(code), -1) for code in hashes], np.int64)
    known = found >= 0
    solved = np.empty(codes.shape)
    if known.any():
        solved[known] = arrays.read("solved", found[known])
    if not known.all():
        solved[~known] = preconditioner.solve(codes[~known])
    return solved, int(known.sum())
