"""From a plan and the config to the rows of a batch, and what is refused in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import config as settings
from pipeline.config import workflow_root
from pipeline.core.codec import Codec
from pipeline.core.memory import FRESH, HEAP, SLACK, Plan, Watch
from pipeline.errors import CapacityError, StoreError
from pipeline.steps.job import Job
from pipeline.steps.memory import (
    SetUp,
    batch_rows,
    candidate_rows,
    check,
    measured,
    plan_of,
    record_of,
    row_bytes,
    together,
)
from pipeline.storage.artefact import Manifest
from pipeline.storage.layout import Layout

MB = 10**6
PLAN = Plan(SLACK, 90 * MB, (1, 2, 4, 8), (100 * MB, 110 * MB, 150 * MB, 300 * MB))


def job_of(memory_mb: int, rows: int | str = "auto") -> tuple[Job, list[str]]:
    said: list[str] = []
    values = settings.merge(settings.defaults(), {"gradients": {"batch_rows": rows}})
    config = settings.partial(settings.sections(settings.validate(values), "projection"), memory_mb)
    return Job("projection", Layout(Path()), config, said.append), said


def test_the_plan_is_said_and_the_largest_batch_that_fits_taken():
    job, said = job_of(200)
    assert batch_rows(job, PLAN) == 4
    assert said == ["batches of 4 rows: 163 MB planned of 200"]
    assert [batch_rows(job_of(mb)[0], PLAN) for mb in (113, 124, 2048)] == [1, 2, 8]


def test_a_number_that_fits_is_taken_as_it_is():
    assert batch_rows(job_of(200, 3)[0], PLAN) == 3
    assert batch_rows(job_of(10**6, 100)[0], PLAN) == 100


@pytest.mark.parametrize(("memory_mb", "rows", "message"), [
    (50, "auto", "expected batches of one row within compute.memory_mb = 50, got a plan of 113 MB: raise "
     "compute.memory_mb, or leave parameters out by gradients.exclude"),
    (120, 8, "expected batches of 8 rows within compute.memory_mb = 120, got a plan of 313 MB: raise "
     "compute.memory_mb, or lower gradients.batch_rows"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_in_one_sentence(memory_mb, rows, message):
    with pytest.raises(CapacityError) as caught:
        batch_rows(job_of(memory_mb, rows)[0], PLAN)
    assert str(caught.value) == message and caught.value.exit_code == 2


def test_several_checkpoints_are_planned_together_and_refused_together():
    codec = Codec("float32", np.ones(1000, np.float32))
    both = together([PLAN, PLAN], [codec, codec])
    assert both.bytes[0] == 190 * MB + SLACK + int(HEAP * 4025)
    assert together([PLAN], [codec]) == PLAN
    assert batch_rows(job_of(217)[0], both) == 1 and batch_rows(job_of(227)[0], both) == 2
    with pytest.raises(
        CapacityError, match="expected batches of one row within .* = 200, got a plan of 216 MB: .* or no"
    ):
        batch_rows(job_of(200)[0], both, "no")


def test_a_set_up_that_does_not_fit_is_refused_before_anything_is_fitted():
    check(job_of(100)[0], "a model that is set up", 87 * MB)
    with pytest.raises(CapacityError, match="expected a model that is set up within compute.memory_mb = 100, got a "):
        check(job_of(100)[0], "a model that is set up", 88 * MB)


def test_many_labels_make_smaller_batches_and_too_many_are_refused():
    codec = Codec("float32", np.ones(1000, np.float32))
    assert candidate_rows(job_of(2048)[0], PLAN, 10, codec) == 8
    assert candidate_rows(job_of(2048, 2)[0], PLAN, 10, codec) == 2
    job, said = job_of(400)
    rows = candidate_rows(job, PLAN, 2000, codec)  # 4 copies of 8 MB of codes a row
    assert rows == 4 and said[0].startswith("batches of 4 rows, 2000 labels: ")
    assert int(said[0].split(": ")[1].split()[0]) >= 150 + 4 * 4 * 8
    with pytest.raises(CapacityError, match="expected batches of one row under 20000 labels within"):
        candidate_rows(job, PLAN, 20000, codec)
    assert candidate_rows(job_of(420)[0], PLAN, 2000, codec) == 4
    assert candidate_rows(job_of(420)[0], PLAN, 2000, Codec("int8", np.ones(1000, np.float32))) == 8


def test_the_plan_survives_the_manifest_and_an_older_one_without_it_is_refused():
    record = {"memory": record_of(PLAN)}
    assert plan_of(Manifest("projection", "flat.zarr", {}, {}, record)) == PLAN
    with pytest.raises(StoreError, match="expected a memory plan with the projection flat.zarr, got an older one"):
        plan_of(Manifest("projection", "flat.zarr", {}, {}, {}))
    del record["memory"]["between_bytes"]
    with pytest.raises(StoreError, match="expected a memory plan with the projection flat.zarr, got an older one"):
        plan_of(Manifest("projection", "flat.zarr", {}, {}, record))


def test_bytes_of_a_row():
    assert row_bytes((torch.zeros(3, 4), 5)) == 56
    assert row_bytes({"text": "abc", "more": [np.zeros(2), b"xy", torch.zeros(2, dtype=torch.int8)]}) == 3 + 16 + 2 + 2


@pytest.mark.parametrize(("validation", "chosen"), [
    ([4, 12, 4], [99, 1, 3, 0, 4, 2, 5, 6, 99]), ([4, 12, 21], [2, 1, 0, 2, 1, 0, 2, 1, 0]), ([], [99, 1, 3, 0]),
])  # fmt: skip
def test_batches_of_the_largest_rows_are_measured(validation: list[int], chosen: list[int]):
    """However late they come, and of whichever split; those of two splits never in one batch."""
    train = [3, 9, 1, 9, 2] + 94 * [1] + [20]
    asked: list[list[int]] = []

    class Rows:
        def __init__(self, lengths: list[int]) -> None:
            self.lengths = lengths

        def row(self, position: int) -> torch.Tensor:
            return torch.zeros(self.lengths[position])

        def batch(self, positions: list[int]) -> list[int]:
            assert max(self.lengths) == max(train + validation)
            asked.append(positions)
            return positions

    def capture(batch: list[int], rows: int):
        assert len(batch) == rows
        return SimpleNamespace(
            codes=np.ones((rows, 4), np.float32),
            squared_norms=np.ones(rows),
            norm_errors=np.zeros(rows),
            losses=np.ones(rows),
            flags=np.zeros(rows),
        )

    capturer = SimpleNamespace(dimension=4, capture=capture)
    with Watch() as watch:
        samples = [(Rows(each), list(range(len(each)))) for each in (train, validation)]
        plan = measured(job_of(2048)[0], capturer, watch, 7, samples)
    assert plan.sizes == (1, 2, 4, 8, 16, 32, 64, 128, 256) and plan.setup_bytes == 7
    assert asked[-1][: len(chosen)] == chosen and len(asked[-1]) == 256


def test_another_budget_is_no_other_section_of_any_stage():
    more = settings.validate(settings.merge(settings.defaults(), {"compute": {"memory_mb": 7}}))
    for stage in settings.STAGES:
        assert settings.sections(more, stage) == settings.sections(settings.load(), stage)
    assert more.plain()["compute"]["memory_mb"] == 7  # but kept with the run's config
    passed = settings.sections(more, "vectors")
    assert settings.partial(passed).compute.memory_mb == settings.load().compute.memory_mb


def test_what_is_refused_while_a_model_is_set_up_takes_more_when_it_is():
    """Weights, the copy in float64, gradients of a row and of another, against the benchmark's captures."""
    rows = json.loads((workflow_root() / "benchmarks" / "results" / "memory.json").read_text())["rows"]
    assert rows
    for row in rows:
        assert (FRESH * (4 + 8 + 8) + 8) * row["P"] < row["measured MB"] * MB
    job, _ = job_of(24)
    with Watch() as watch:
        setting_up = SetUp(job, watch)
        weights = torch.zeros(10**6)
        setting_up.afford(4 * 10**6)
        with pytest.raises(
            CapacityError, match="expected a model that is set up within compute.memory_mb = 24, got a "
        ):
            setting_up.afford(8 * 10**6)
        del weights
        assert 0 <= setting_up.peak - FRESH * 4 * 10**6 < MB
        setting_up.afford(8 * 10**6)
