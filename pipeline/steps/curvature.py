"""Curvature: of the validation rows at `flat`, of the train rows at `trained`, from the stores of codes.

Another damping needs no model and no capture: only this stage and what follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.curvature import (
    Spectrum,
    identity_spectrum,
    spectrum_of_roots,
    spectrum_of_squares,
    spectrum_of_sum,
)
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import ConfigError, DataError
from pipeline.shards import Plan
from pipeline.steps.code import stands_for
from pipeline.steps.codes import CodeSet
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import arrays_of
from pipeline.steps.stores import open_candidates, open_codes, retired_of
from pipeline.steps.sums import Sums, outer_part, parts_of, square_part, summed
from pipeline.storage.arrays import Arrays, write_arrays
from pipeline.storage.artefact import kept_manifest, read_manifest

Array = np.ndarray[Any, Any]


def run(job: Job, checkpoint: str, split: str) -> None:
    """Write `curvature/<checkpoint>-<split>.zarr`: values [r], vectors [K, r] unless diagonal, damping [1] (lambda).

    Beside them stand the sums that a later run adds to, where there are any (`pipeline.steps.sums`).
    """
    section, plan = job.config.curvature, job.plan()
    codes = open_codes(job.layout, plan, checkpoint, split)
    rows = int(codes.counted().sum())
    if not rows:
        raise DataError(
            f"expected {split} rows with finite losses and gradients, got none of {codes.rows}; see the flags in "
            "gradients/"
        )
    roots = _ggn_roots(job, plan, checkpoint, split) if section.kind == "ggn" else codes
    identity = {
        "inputs": roots.digests(),
        "projection": read_manifest(job.layout.projection(checkpoint)).digest,
        "curvature": section.plain(),
        "split": split,
        "rows": rows,
        "retired": retired_of(plan, split),
    }
    place = job.layout.curvature(checkpoint, split)
    spectrum, sums, count = _spectrum(job, section.kind, roots, rows, _kept(job, place, identity))
    fitted = Preconditioner.fit(spectrum, section.damping, section.kind)
    with job.writing(place, "curvature", identity) as (path, record):
        write_arrays(path, {**arrays_of(fitted), **(sums.arrays() if sums else {})})
        record.update(summed=count, rank=len(spectrum.values), trace=spectrum.trace, damping=fitted.damping)


def _ggn_roots(job: Job, plan: Plan, checkpoint: str, split: str) -> CodeSet:
    if not plan.classes:
        raise ConfigError(
            "expected a classification (a task with `logits`) for curvature.kind ggn, got a task without; use fisher"
        )
    return open_candidates(job.layout, plan, checkpoint, split)


def _spectrum(job: Job, kind: str, roots: CodeSet, rows: int, kept: Sums | None) -> tuple[Spectrum, Sums | None, int]:
    """The spectrum, the sums behind it, if there are any, and how many rows were summed for it."""
    dimension = roots.dimension
    if kind == "identity":
        return identity_spectrum(dimension, rows), None, 0
    if kind == "diagonal":
        total, sums, count = summed(job.workers(), square_part, roots, kept, 8 * dimension)
        return spectrum_of_squares(total, rows), sums, count
    labels = (roots.shards[0].arrays.shape("row_scale")[1:] or (1,))[0]
    if labels * int(roots.counted().sum()) < dimension:
        parts = parts_of(roots.shards, [shard.counted for shard in roots.shards])
        every = np.concatenate([piece for shard in parts for part in shard for piece in part.roots()])
        return spectrum_of_roots(every, rows), None, rows
    total, sums, count = summed(job.workers(), outer_part, roots, kept, 8 * dimension**2)
    return spectrum_of_sum(total, rows), sums, count


def _kept(job: Job, path: Path, identity: dict[str, Any]) -> Sums | None:
    """The sums of an earlier run, if they are over codes that mean the same; damping does not matter."""
    manifest = kept_manifest(path, "curvature")
    if manifest is None or manifest.identity["curvature"]["kind"] != identity["curvature"]["kind"]:
        return None
    if any(manifest.identity[key] != identity[key] for key in ("projection", "split")):
        return None
    stands = stands_for(job.stage, manifest.record["code"], job.config, job.layout.run)
    return Sums.read(Arrays(path)) if stands else None
