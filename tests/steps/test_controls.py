"""The simple controls of the score table, of a run made stage by stage: against losses and gradients by autograd."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import config as settings
from pipeline.methods import CONTROLS, METHODS
from pipeline.steps import flatten, gradients, prepare, projection, train
from pipeline.steps.estimating import RunStores, fitted, score_rows
from pipeline.steps.job import Job
from pipeline.steps.tasks import model_at, task_of
from pipeline.storage.layout import Layout
from pipeline.tasks.checks import row_set

SECTIONS = {
    "task": {"class": "digits", "options": {"train_size": 30, "validation_size": 20, "query_size": 5, "epochs": 4,
                                            "hidden": [12], "noise_rate": 0.2}},
    "flatten": {"strength": 0.2, "steps": 5, "watch": False},
    "sharpness": {"draws": 2, "iterations": 2, "rows": 10},
}  # fmt: skip


def job(run: Path, stage: str) -> Job:
    return Job(stage, Layout(run), settings.validate(settings.merge(settings.defaults(), SECTIONS)), lambda line: None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Job:
    run = tmp_path_factory.mktemp("controls")
    prepare.run(job(run, "prepare"))
    train.run(job(run, "train"))
    flatten.run(job(run, "flatten"))
    for checkpoint in settings.CHECKPOINTS:
        projection.run(job(run, "projection"), checkpoint)
        gradients.run(job(run, "gradients"), checkpoint, "train", "00000")
    return job(run, "scores")


@pytest.mark.parametrize("name", CONTROLS)
def test_controls_are_the_loss_and_the_norm_of_the_gradient_at_their_checkpoint(made, name):
    (checkpoint,) = METHODS[name].at
    task = task_of(made.config, made.plan())
    model, rows, expected = model_at(task, made.layout, checkpoint), row_set(task, "train"), []
    for row in range(len(rows)):
        loss = task.loss(model, rows.batch([row])).sum()
        found = torch.autograd.grad(loss, list(model.parameters()))
        norm = torch.stack([each.double().square().sum() for each in found]).sum().sqrt()
        expected.append(float(norm if name.startswith("norm") else loss.detach()))
    stores = RunStores(made.layout, made.plan(), made.workers())
    asked = {name: (fitted(stores, name, [checkpoint]), [checkpoint])}
    np.testing.assert_allclose(score_rows(stores, asked, lambda: None)[name], expected, rtol=1e-4, atol=1e-7)
    assert METHODS[name].suspicious == 1
