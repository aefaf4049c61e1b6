"""A flat minimum that a test makes up, for stages that read it or its manifest."""

from __future__ import annotations

from torch import nn

from pipeline.steps.job import Job
from pipeline.storage.weights import save_weights


def write_flat(job: Job, model: nn.Module, method: str = "sam") -> None:
    """Let the run of a job have this model at `flat`, found by a `flatten.method`."""
    with job.writing(job.layout.checkpoint("flat"), "checkpoint", {"flatten": {"method": method}}) as (path, _):
        save_weights(path, model)
