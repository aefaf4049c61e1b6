"""Curvature: of the validation rows at `flat`, of the train rows at `trained`, from the stores of codes.

Another damping needs no model and no capture: only this stage and what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pipeline.core.curvature import (
    Spectrum,
    identity_spectrum,
    outer_sum,
    spectrum_of_roots,
    spectrum_of_squares,
    spectrum_of_sum,
    square_sum,
)
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import ConfigError, DataError
from pipeline.shards import Plan
from pipeline.steps.codes import BLOCK_HELD_BYTES, CodeBlock, CodeSet
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import arrays_of
from pipeline.steps.stores import open_candidates, open_codes, retired_of
from pipeline.storage.arrays import write_arrays
from pipeline.storage.reduction import tree_sum

Array = np.ndarray[Any, Any]


def run(job: Job, checkpoint: str, split: str) -> None:
    """Write `curvature/<checkpoint>-<split>.zarr`: values [r], vectors [K, r] unless diagonal, damping [1] (lambda)."""
    section, plan = job.config.curvature, job.plan()
    codes = open_codes(job.layout, plan, checkpoint, split)
    rows = int(codes.counted().sum())
    if not rows:
        raise DataError(
            f"expected {split} rows with finite losses and gradients, got none of {codes.rows}; see the flags in "
            "gradients/"
        )
    roots = _ggn_roots(job, plan, checkpoint, split) if section.kind == "ggn" else codes
    spectrum = _spectrum(job, section.kind, roots, rows)
    fitted = Preconditioner.fit(spectrum, section.damping, section.kind)
    identity = {
        "inputs": roots.digests(),
        "curvature": section.plain(),
        "split": split,
        "rows": rows,
        "retired": retired_of(plan, split),
    }
    with job.writing(job.layout.curvature(checkpoint, split), "curvature", identity) as (path, record):
        write_arrays(path, arrays_of(fitted))
        record.update(rank=len(spectrum.values), trace=spectrum.trace, damping=fitted.damping)


def _ggn_roots(job: Job, plan: Plan, checkpoint: str, split: str) -> CodeSet:
    if not plan.classes:
        raise ConfigError(
            "expected a classification (a task with `logits`) for curvature.kind ggn, got a task without; use fisher"
        )
    return open_candidates(job.layout, plan, checkpoint, split)


def roots_of(block: CodeBlock) -> Iterator[Array]:
    """Root rows of a block in pieces [R, K], float64: gradients, or sqrt(weight) times those under each label."""
    counted = block.shard.counted
    for rows, decoded in block.pieces():
        codes = decoded[counted[rows]].astype(np.float64)
        if codes.ndim == 3:
            weights = np.sqrt(block.shard.read("weight", rows)[counted[rows]].astype(np.float64))
            codes = (codes * weights[:, :, None]).reshape(-1, codes.shape[-1])
        yield codes


def _all_roots(block: CodeBlock) -> Array:
    return np.concatenate(list(roots_of(block)))


def outer_part(block: CodeBlock) -> Array:
    """What a block adds to the sum of r r^T, [K, K]."""
    return _added(outer_sum, roots_of(block))


def square_part(block: CodeBlock) -> Array:
    """What a block adds to the sum of squared coordinates, [K]."""
    return _added(square_sum, roots_of(block))


def _added(reduce: Callable[[Array], Array], pieces: Iterator[Array]) -> Array:
    total = reduce(next(pieces))
    for piece in pieces:
        total += reduce(piece)
    return total


def _spectrum(job: Job, kind: str, roots: CodeSet, rows: int) -> Spectrum:
    dimension = roots.dimension
    if kind == "identity":
        return identity_spectrum(dimension, rows)
    if kind == "diagonal":
        return spectrum_of_squares(_sum(job, square_part, roots, 8 * dimension), rows)
    count = sum(shard.counted.sum() * (shard.arrays.shape("row_scale")[1:] or (1,))[0] for shard in roots.shards)
    if count < dimension:
        return spectrum_of_roots(np.concatenate([_all_roots(part) for part in roots.parts()]), rows)
    return spectrum_of_sum(_sum(job, outer_part, roots, 8 * dimension**2), rows)


def _sum(job: Job, leaf: Callable[[CodeBlock], Array], roots: CodeSet, size_bytes: int) -> Array:
    """The sum over blocks, within each shard first: a shard's sum that was kept can stand for its blocks."""
    shards = [parts for shard in roots.shards if (parts := shard.parts())]
    # Beside a block's own: what a piece adds, and a sum that waits for its neighbour.
    return tree_sum(leaf, shards, job.workers(), block_bytes=BLOCK_HELD_BYTES + 3 * size_bytes)
