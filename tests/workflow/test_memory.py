"""The memory plan through the stages: made with the projection, followed by what captures, and refused in time."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import CapacityError
from pipeline.steps.memory import plan_of
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from tests.workflow.runs import Project, planned
from tests.workflow.steps import config_of, stage

pytestmark = pytest.mark.workflow


def test_the_plan_stands_with_the_projection_and_the_batch_with_what_was_captured(project: Project) -> None:
    layout = Layout(project.run)
    plan = read_manifest(layout.projection("flat")).record["memory"]
    assert plan["sizes"] == [1, 2, 4, 8, 16, 32, 64, 128, 256] and len(plan["bytes"]) == 9
    assert plan["setup_bytes"] > 0 and plan["bytes"] == sorted(plan["bytes"])
    assert read_manifest(layout.gradients("flat", "train", "00000")).record["batch_rows"] == 256
    assert read_manifest(layout.candidates("flat", "train", "00000")).record["batch_rows"] == 256


def test_a_budget_that_is_too_small_is_refused_before_anything_is_written(project: Project, tmp_path: Path) -> None:
    layout, config = Layout(project.copy_of_run(tmp_path)), config_of(project.config, compute={"memory_mb": 2})
    before = read_manifest(layout.projection("flat")).digest
    with pytest.raises(CapacityError, match="expected a model that is set up within compute.memory_mb = 2, got a plan"):
        stage(layout, config, "projection", checkpoint="flat")
    with pytest.raises(CapacityError, match="expected batches of one row within compute.memory_mb = 2, got a plan"):
        stage(layout, config, "gradients", checkpoint="flat", split="train", shard="00000")
    assert read_manifest(layout.projection("flat")).digest == before


def test_a_budget_between_makes_smaller_batches(project: Project, tmp_path: Path) -> None:
    layout = Layout(project.copy_of_run(tmp_path))
    plan = plan_of(read_manifest(layout.projection("flat")))
    between = (plan.held(1) + plan.held(256)) // (2 * 10**6)
    config = config_of(project.config, compute={"memory_mb": between})
    stage(layout, config, "gradients", checkpoint="flat", split="train", shard="00000")
    assert 1 <= read_manifest(layout.gradients("flat", "train", "00000")).record["batch_rows"] < 256


def test_another_budget_makes_nothing_anew(project: Project, tmp_path: Path) -> None:
    changed = project.changed(tmp_path, compute={"memory_mb": 4096})
    assert planned(project.copy_of_run(tmp_path), "-c", changed) == set()


def test_a_model_that_cannot_fit_is_refused_before_its_engine_is_proven(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, config = Layout(project.copy_of_run(tmp_path)), config_of(project.config, compute={"memory_mb": 2})
    monkeypatch.setattr("pipeline.core.capture.cover.check_loss", lambda *_: pytest.fail("proven"))
    with pytest.raises(CapacityError, match="expected a model that is set up within compute.memory_mb = 2"):
        stage(layout, config, "projection", checkpoint="flat")


def test_checkpoints_that_fit_one_by_one_are_refused_together(project: Project, tmp_path: Path) -> None:
    layout = Layout(project.copy_of_run(tmp_path))
    plans = [plan_of(read_manifest(layout.projection(each))) for each in ("trained", "flat")]
    alone = max(plan.held(1) for plan in plans)
    config = config_of(project.config, compute={"memory_mb": (alone + plans[0].between_bytes) // 10**6 + 1})
    for each in ("trained", "flat"):
        stage(layout, config, "gradients", checkpoint=each, split="train", shard="00000")
    with pytest.raises(
        CapacityError, match="expected batches of one row within .*, or name fewer checkpoints at a time$"
    ):
        stage(layout, config, "gradients", checkpoint="trained,flat", split="train", shard="00001")
