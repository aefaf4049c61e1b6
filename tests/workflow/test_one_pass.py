"""One pass over a shard's rows for several checkpoints gives what a pass for each gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cli.main import main
from pipeline.errors import StoreError
from pipeline.shards import Plan
from pipeline.steps.stores import open_codes
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from tests.workflow.runs import Project
from tests.workflow.steps import config_of, stage

pytestmark = pytest.mark.workflow


def test_equals_a_pass_for_each(project: Project, tmp_path: Path) -> None:
    before, layout = Layout(project.run), Layout(project.copy_of_run(tmp_path))
    stage(layout, config_of(project.config), "gradients", checkpoint="trained,flat", split="train", shard="00001")
    for checkpoint in ("trained", "flat"):
        stores = [each.gradients(checkpoint, "train", "00001") for each in (before, layout)]
        assert len({read_manifest(store).digest for store in stores}) == 1
        assert len({read_manifest(store).record["written"] for store in stores}) == 2
        for name in Arrays(stores[0]).names():
            np.testing.assert_array_equal(*[Arrays(store).read(name) for store in stores], err_msg=name)


def test_shards_of_another_precision_are_not_mixed_with_the_others(project: Project, tmp_path: Path) -> None:
    layout = Layout(project.copy_of_run(tmp_path))
    config = config_of(project.config, compute={"precision": "bfloat16"})
    stage(layout, config, "gradients", checkpoint="flat", split="train", shard="00001")
    with pytest.raises(StoreError, match="expected stores of one provenance, got .* which differ in precision; run"):
        open_codes(layout, Plan.load(layout.plan), "flat", "train")


@pytest.mark.parametrize(("checkpoint", "message"), [
    ("trained,flat", "expected one checkpoint for the stage vectors, got trained,flat; run it for each"),
    ("best", "expected some of trained, flat, epoch-1, seed-1, ..., got 'best'"),
    ("flat,flat", "expected some of trained, flat, epoch-1, seed-1, ..., got 'flat,flat'"),
])  # fmt: skip
def test_what_is_no_checkpoint(checkpoint: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["stage", "vectors", "--config", "{}", "--checkpoint", checkpoint, "--split", "query"])
    assert caught.value.code == 2 and message in capsys.readouterr().err
