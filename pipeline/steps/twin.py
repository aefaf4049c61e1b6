"""Twin: weights after the same epochs as the trajectory, of a training from another seed: f-INE's auxiliary model."""

from __future__ import annotations

from pipeline.steps.job import Job
from pipeline.steps.trajectory import record_epochs


def run(job: Job) -> None:
    """Write `checkpoints/twin-<number>.safetensors` for the epochs of the config."""
    record_epochs(job, "twin", "twin")
