"""Curvature: of the validation rows at `flat`, of the train rows at `trained`, from the stores of codes.

Another damping needs no model and no capture: only this stage and what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
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
from pipeline.steps.job import Job
from pipeline.steps.stores import CodeSet, CodeShard, open_candidates, open_codes, retired_of
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
    arrays = {"values": spectrum.values, "damping": np.array([fitted.damping])}
    if spectrum.vectors is not None:
        arrays["vectors"] = spectrum.vectors
    with job.writing(job.layout.curvature(checkpoint, split), "curvature", identity) as (path, record):
        write_arrays(path, arrays)
        record.update(rank=len(spectrum.values), trace=spectrum.trace, damping=fitted.damping)


def _ggn_roots(job: Job, plan: Plan, checkpoint: str, split: str) -> CodeSet:
    if not plan.classes:
        raise ConfigError(
            "expected a classification (a task with `logits`) for curvature.kind ggn, got a task without; use fisher"
        )
    return open_candidates(job.layout, plan, checkpoint, split)


def roots_of(shard: CodeShard) -> Array:
    """Root rows of a shard, [R, K] float64: gradients, or sqrt(weight) times gradients under each label."""
    return np.concatenate(list(_root_blocks(shard)))


def _root_blocks(shard: CodeShard) -> Iterator[Array]:
    """The root rows of a shard in blocks of bounded size."""
    for block in shard.blocks():
        codes = shard.codes(block)[shard.counted[block]].astype(np.float64)
        if codes.ndim == 3:
            weights = np.sqrt(shard.read("weight", block)[shard.counted[block]].astype(np.float64))
            codes = (codes * weights[:, :, None]).reshape(-1, codes.shape[-1])
        yield codes


def _spectrum(job: Job, kind: str, roots: CodeSet, rows: int) -> Spectrum:
    dimension = len(roots.shards[0].codec.column_scale)
    if kind == "identity":
        return identity_spectrum(dimension, rows)
    if kind == "diagonal":
        return spectrum_of_squares(_sum(job, square_sum, roots), rows)
    count = sum(shard.counted.sum() * (shard.read("row_scale").shape[1:] or (1,))[0] for shard in roots.shards)
    if count < dimension:
        return spectrum_of_roots(np.concatenate([roots_of(shard) for shard in roots.shards]), rows)
    return spectrum_of_sum(_sum(job, outer_sum, roots), rows)


def _sum(job: Job, reduce: Callable[[Array], Array], roots: CodeSet) -> Array:
    """The sum over shards of what `reduce` makes of their root rows."""

    def part(shard: CodeShard) -> Array:
        blocks = _root_blocks(shard)
        total = reduce(next(blocks))
        for block in blocks:
            total += reduce(block)
        return total

    return tree_sum([partial(part, shard) for shard in roots.shards], job.config.compute.threads)
