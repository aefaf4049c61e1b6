"""Suspects: the share of train rows with the highest S, for when only they get candidates."""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.influence import order
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import write_arrays


def run(job: Job) -> None:
    """Write `candidates/suspects.zarr`: position [n], ascending."""
    codes = open_codes(job.layout, job.plan(), "flat", "train")
    preconditioner, curvature = open_preconditioner(job.layout, "flat", "validation")
    scores = np.concatenate([preconditioner.forms(shard.codes()).s for shard in codes.shards])
    positions = np.nonzero(codes.finite())[0]
    count = math.ceil(job.config.candidates.suspect_share * len(positions))
    worst = positions[order(scores[positions], positions)[:count]]
    identity = {
        "gradients": codes.digests(),
        "curvature": curvature.digest,
        "share": job.config.candidates.suspect_share,
    }
    with job.writing(job.layout.suspects, "suspects", identity) as (path, _):
        write_arrays(path, {"position": np.sort(worst)})
