"""Suspects: the train rows with the largest gradients at flat, for when only they get candidates.

The criterion is S without curvature (H = I), so that another damping captures nothing anew.
"""

from __future__ import annotations

import math

import numpy as np

from pipeline.core.influence import order
from pipeline.steps.job import Job
from pipeline.steps.stores import open_codes, retired_of
from pipeline.storage.arrays import write_arrays


def run(job: Job) -> None:
    """Write `candidates/suspects.zarr`: position [n], ascending."""
    plan = job.plan()
    codes = open_codes(job.layout, plan, "flat", "train")
    positions = np.nonzero(codes.counted())[0]
    count = math.ceil(job.config.candidates.suspect_share * len(positions))
    worst = positions[order(codes.column("norm_full")[positions], positions)[:count]]
    identity = {"gradients": codes.digests(), "share": job.config.candidates.suspect_share,
                "retired": retired_of(plan, "train")}  # fmt: skip
    with job.writing(job.layout.suspects, "suspects", identity) as (path, _):
        write_arrays(path, {"position": np.sort(worst)})
