"""Vectors: validation and query gradients at a checkpoint, as they are and preconditioned, in float64.

One set per checkpoint serves every later question: from here on nothing needs the model.
"""

from __future__ import annotations

from pipeline.config import CURVATURE_SPLIT
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import ArrayWriter


def run(job: Job, checkpoint: str) -> None:
    """Write `vectors/<checkpoint>.zarr`: <split>_code and <split>_solved, [n, K] each, and <split>_flag [n]."""
    plan = job.plan()
    preconditioner, curvature = open_preconditioner(job.layout, checkpoint, CURVATURE_SPLIT[checkpoint])
    sets = {
        split: open_codes(job.layout, plan, checkpoint, split)
        for split in ("validation", "query")
        if plan.splits[split].rows
    }
    identity = {"curvature": curvature.digest, **{split: codes.digests() for split, codes in sets.items()}}
    with job.writing(job.layout.vectors(checkpoint), "vectors", identity) as (path, _), ArrayWriter(path) as writer:
        for split, codes in sets.items():
            for shard in codes.shards:
                decoded = shard.codes().astype("float64")
                writer.append(f"{split}_code", decoded, total=codes.rows)
                writer.append(f"{split}_solved", preconditioner.solve(decoded), total=codes.rows)
                writer.append(f"{split}_flag", shard.read("flag"), total=codes.rows)
