"""What methods are called: VM at a plain minimum, in tables and in the header of `lowland suspects`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from pipeline import config as settings
from pipeline.errors import StoreError
from pipeline.shards import Plan
from pipeline.steps.job import Job
from pipeline.steps.titles import named
from pipeline.storage.layout import Layout
from pipeline.storage.tables import write_table
from tests.minima import write_flat
from tests.workflow.runs import succeed


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run without labels that has scores."""
    made = Job("scores", Layout(tmp_path), settings.validate(settings.defaults()), lambda line: None)
    made.layout.plan.parent.mkdir(parents=True)
    made.layout.plan.write_text(Plan({}, (), False, True, 8, "", (), {}, {}).save())
    made.layout.config.write_text("suspects: {score: auto}")
    with made.writing(made.layout.scores, "scores", {"estimators": ["s"], "posterior": None}) as (path, _):
        write_table(path, {"given": [-1, -1], "s": [1.0, 2.0], "loss_flat": np.ones(2)}, {})
    return made


@pytest.mark.parametrize(("method", "title"), [("plain", "VM"), ("sam", "FVM"), ("asam", "FVM"), ("lpf", "FVM")])
def test_the_method_of_the_minimum_decides(job: Job, method: str, title: str) -> None:
    write_flat(job, nn.Linear(1, 1), method)
    assert named(job.layout, "FVM, single point") == f"{title}, single point"
    assert f"top 1 suspects by S ({title}, set level) at flat" in succeed("suspects", job.layout.run, "--top", 1)


def test_what_is_not_fvm_asks_for_no_minimum(job: Job) -> None:
    assert named(job.layout, "classical influence") == "classical influence"
    with pytest.raises(StoreError, match="expected the artefact .*flat.safetensors, got nothing there"):
        named(job.layout, "FVM, W")
