"""Options that change which stages there are: candidates of the suspects only, and the curvature of all labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.shards import Plan
from pipeline.steps.preconditioned import open_preconditioner
from pipeline.steps.stores import open_candidates, open_codes
from pipeline.storage.layout import Layout
from tests.workflow.runs import ROWS, Project, planned
from tests.workflow.steps import config_of, scores_of, stage

pytestmark = pytest.mark.workflow

SUSPECTS = {"candidates": {"rows": "suspects", "suspect_share": 0.2}}
GGN = {"curvature": {"kind": "ggn"}}


def test_only_suspects_are_relabelled(project: Project, tmp_path: Path) -> None:
    copy = project.copy_of_run(tmp_path)
    before, config = scores_of(copy), config_of(project.config, **SUSPECTS)
    stage(Layout(copy), config, "suspects")
    for shard in ("00000", "00001"):
        stage(Layout(copy), config, "candidates", checkpoint="flat", split="train", shard=shard)
    stage(Layout(copy), config, "scores")
    after = scores_of(copy)
    known = after["suggested"] >= 0
    assert set(np.nonzero(known)[0]) == set(np.argsort(-before["s"])[: ROWS // 5])
    assert (after["suggested"][known] == before["suggested"][known]).all()
    assert np.isnan(after["margin"][~known].astype(float)).all()
    assert np.array_equal(after["s"], before["s"])


def test_suspects_come_before_their_candidates(project: Project, tmp_path: Path) -> None:
    made = planned(project.copy_of_run(tmp_path), "-c", project.changed(tmp_path, **SUSPECTS))
    assert made == {
        "candidates/suspects",
        "candidates/flat/train/00000",
        "candidates/flat/train/00001",
        "scores/scores",
        "evaluation/mislabel",
        "report/index",
    }


def test_estimators_that_suggest_labels_need_gradients_under_all_of_them(project: Project, tmp_path: Path) -> None:
    asked = project.changed(tmp_path, evaluate={"relabel": ["classical"]})
    assert planned(project.copy_of_run(tmp_path), "-c", asked) == {
        "candidates/trained/train/00000",
        "candidates/trained/train/00001",
        "evaluation/mislabel",
        "report/index",
    }


def test_the_ggn_sums_gradients_under_all_labels(project: Project, tmp_path: Path) -> None:
    """C = (1/M) sum over rows and labels of p_c g_c g_c^T, the labels weighted by the model's own probabilities."""
    copy, config = project.copy_of_run(tmp_path), config_of(project.config, **GGN)
    layout = Layout(copy)
    stage(layout, config, "candidates", checkpoint="flat", split="validation", shard="00000")
    stage(layout, config, "curvature", checkpoint="flat", split="validation")
    preconditioner, manifest = open_preconditioner(layout, "flat", "validation")
    shard = open_candidates(layout, Plan.load(layout.plan), "flat", "validation").shards[0]
    codes, weights = shard.codes().astype(np.float64), shard.read("weight").astype(np.float64)
    assert np.allclose(weights.sum(1), 1) and codes.shape == (20, 10, 64)
    curvature = np.einsum("mc,mcj,mck->jk", weights, codes, codes) / len(codes)
    damped = curvature + np.trace(curvature) / len(codes) * np.eye(64)
    rows = open_codes(layout, Plan.load(layout.plan), "flat", "train").codes().astype(np.float64)
    assert np.allclose(preconditioner.solve(rows), np.linalg.solve(damped, rows.T).T, rtol=1e-6)
    assert manifest.identity["rows"] == 20


def test_the_ggn_needs_the_candidates_of_its_rows(project: Project, tmp_path: Path) -> None:
    made = planned(project.copy_of_run(tmp_path), "-c", project.changed(tmp_path, **GGN))
    assert {
        "candidates/flat/validation/00000",
        "candidates/trained/train/00000",
        "candidates/trained/train/00001",
    } <= made
    assert not {
        name for name in made if name.startswith(("gradients", "candidates/flat/train", "projection", "checkpoints"))
    }
