"""LDS of a run made stage by stage: the tables against sums over all pairs of rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr
from torch import nn

from pipeline import config as settings
from pipeline.errors import StoreError
from pipeline.methods import METHODS
from pipeline.retrainings import blocks
from pipeline.steps import curvature, flatten, gradients, lds, prepare, projection, retrain, train
from pipeline.steps.job import Job
from pipeline.steps.retrained import open_retrained
from pipeline.steps.stores import open_codes
from pipeline.storage.artefact import manifest_path, read_manifest
from pipeline.storage.layout import Layout
from tests.minima import write_flat

SECTIONS = {
    "task": {"class": "digits", "options": {"train_size": 60, "validation_size": 20, "query_size": 12, "epochs": 4,
                                            "hidden": [24], "noise_rate": 0.1}},
    "flatten": {"strength": 0.2, "steps": 5, "watch": False},
    "sharpness": {"draws": 2, "iterations": 2, "rows": 10},
    "retrain": {"members": 8, "lds_subsets": 6, "lds_seeds": 2},
}  # fmt: skip


def job(run: Path, stage: str) -> Job:
    return Job(stage, Layout(run), settings.validate(settings.merge(settings.defaults(), SECTIONS)), lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run with vectors at both checkpoints and the models on random halves."""
    run = tmp_path_factory.mktemp("lds")
    prepare.run(job(run, "prepare"))
    train.run(job(run, "train"))
    flatten.run(job(run, "flatten"))
    for checkpoint, split in settings.CURVATURE_SPLIT.items():
        projection.run(job(run, "projection"), checkpoint)
        for each in settings.SPLITS:
            gradients.run(job(run, "gradients"), checkpoint, each, "00000")
        curvature.run(job(run, "curvature"), checkpoint, split)
    asked = job(run, "retrain")
    for block in blocks(asked.config.retrain, "half"):
        retrain.run(asked, "half", block)
    lds.run(job(run, "lds"), "half")
    return job(run, "lds")


def codes_of(made: Job, checkpoint: str, split: str) -> np.ndarray:
    return open_codes(made.layout, made.plan(), checkpoint, split).codes().astype(np.float64)


def rows_of(made: Job) -> list[dict[str, Any]]:
    return read_manifest(made.layout.evaluation("lds-half")).record["rows"]


def responses(made: Job) -> tuple[np.ndarray, np.ndarray]:
    """Mask of each subset, [6, N], and minus the mean loss over its two models, [Q, 6]."""
    retrained = open_retrained(made.layout, made.plan(), made.config, "half")
    loss, actions = retrained.read("query_loss").astype(np.float64), list(retrained.actions().values())
    masks = retrained.read("kept")
    return masks[[each[0] for each in actions]], np.stack([-loss[each].mean(0) for each in actions], axis=1)


@pytest.mark.parametrize(("method", "power"), [("influence", 1), ("fvm", 2)])
def test_the_table_is_spearmans_of_the_summed_scores(made, method, power):
    checkpoint = "trained" if method == "influence" else "flat"
    codes, queries = (codes_of(made, checkpoint, split) for split in ("train", "query"))
    split = settings.CURVATURE_SPLIT[checkpoint]
    rows = codes if split == "train" else codes_of(made, checkpoint, split)
    curvature = rows.T @ rows / len(rows)
    asked = np.linalg.solve(curvature + np.trace(curvature) / len(rows) * np.eye(len(curvature)), queries.T).T
    masks, response = responses(made)
    predicted = (asked @ codes.T) ** power @ masks.T.astype(np.float64)
    expected = np.mean([spearmanr(p, r).statistic for p, r in zip(predicted, response, strict=True)])
    (row,) = [row for row in rows_of(made) if (row["method"], row["checkpoint"], row["response"]) ==
              (METHODS[method].title, checkpoint, "minus the loss")]  # fmt: skip
    assert row["lds"] == pytest.approx(expected, abs=1e-9)
    assert row["low"] <= row["lds"] <= row["high"]
    assert (row["signed"], row["control"], row["subsets"], row["models"]) == (power == 1, False, 6, 2)


def test_controls_and_ceiling_stand_beside_every_response(made):
    rows = rows_of(made)
    for response in ("minus the loss", "margin"):
        controls = {row["method"] for row in rows if row["control"] and row["response"] == response}
        assert {"same label", "loss of the train row", "cosine of the inputs"} < controls
        assert "one retrained model for the others (ceiling)" in controls


def test_fvm_at_a_plain_minimum_is_called_vm(made, tmp_path):
    plain = job(Path(shutil.copytree(made.layout.run, tmp_path / "copy")), "lds")
    write_flat(plain, nn.Linear(1, 1), "plain")
    lds.run(plain, "half")
    titles = {row["method"].replace("VM", "FVM") for row in rows_of(plain) if "VM" in row["method"]}
    assert titles == {row["method"] for row in rows_of(made) if "VM" in row["method"]} == {"FVM, single point"}


def test_a_member_that_is_missing_is_named(made):
    place = manifest_path(made.layout.retrained("half", "00003-1"))
    kept = place.read_bytes()
    place.unlink()
    try:
        with pytest.raises(StoreError, match="00003-1"):
            lds.run(made, "half")
    finally:
        place.write_bytes(kept)
