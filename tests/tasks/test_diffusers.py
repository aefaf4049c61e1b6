"""Pretrained U-Nets from local files: small random ones, with classes, without, and under prompts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers

from pipeline.core.capture.cover import cover
from pipeline.core.projection import make
from pipeline.errors import DataError, TaskError
from pipeline.steps.capture import Capturer
from pipeline.tasks.checks import check_task, row_set
from pipeline.tasks.diffusers_unet import DiffusersUnet, kind_of, read_arrays, schedule_of
from tests.oracles import per_sample_gradients

SMALL = {"sample_size": 8, "block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}
KINDS = ("plain", "classes", "prompts")


def unet(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "prompts":
        return diffusers.UNet2DConditionModel(
            **SMALL, in_channels=4, out_channels=4, cross_attention_dim=6, attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))  # fmt: skip
    return diffusers.UNet2DModel(
        **SMALL, in_channels=1, out_channels=1, down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), num_class_embeds=3 if kind == "classes" else None)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    directory = tmp_path_factory.mktemp(request.param)
    unet(request.param).save_pretrained(directory / "model", safe_serialization=True)
    draw = np.random.default_rng(0)
    for split, rows in (("train", 6), ("validation", 3), ("query", 2)):
        images = draw.uniform(-1, 1, (rows, 4 if request.param == "prompts" else 1, 8, 8)).astype(np.float32)
        arrays = {"images": images, "labels": np.arange(rows) % 3}
        if request.param == "prompts":
            arrays["prompts"] = draw.standard_normal((rows, 5, 6)).astype(np.float32)
        np.savez(directory / f"{split}.npz", **arrays)
    return request.param, directory


def task_of(directory: Path, **options: Any) -> DiffusersUnet:
    splits = {split: directory / f"{split}.npz" for split in ("train", "validation", "query")}
    return DiffusersUnet(**{"model": directory / "model", **splits, "parts": 2, **options})


def test_a_pretrained_model_is_a_task_and_its_gradients_are_those_of_autograd(files: tuple[str, Path]) -> None:
    task = task_of(files[1])
    facts = check_task(task)
    assert (facts.train, facts.validation, facts.query, facts.parts) == (6, 3, 2, 2)
    model = task.model()
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    batch = row_set(task, "train").batch(range(2))
    covered = cover(model, task.loss, tuple(shapes), task.loss_part(batch, 0))
    setup = Capturer(task, model, covered, make("identity", shapes, 1, 0), [], "exact", parts=2)
    found = setup.capture(batch, 2).codes.reshape(2, 2, -1)
    for i in range(2):
        true = per_sample_gradients(model, task.loss, task.loss_part(batch, i), 2, list(shapes)).numpy()
        np.testing.assert_allclose(found[:, i], true, rtol=1e-3, atol=1e-4 * np.abs(true).max())
    assert task.show(task.train_rows()[0]).image.shape == (8, 8)


def test_class_or_prompt_matters_where_there_is_one(files: tuple[str, Path]) -> None:
    task = task_of(files[1])
    model, batch = task.model(), row_set(task, "train").batch(range(3))
    changed = {**batch, "label": batch["label"].roll(1, 0)}
    same = torch.allclose(task.loss(model, batch), task.loss(model, changed), rtol=1e-6)
    assert same == (files[0] == "plain")


def test_the_target_is_the_schedulers(files: tuple[str, Path], tmp_path: Path) -> None:
    assert schedule_of(files[1] / "model").target == "epsilon"
    diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012,
                            prediction_type="v_prediction").save_pretrained(tmp_path / "scheduler")  # fmt: skip
    found = schedule_of(tmp_path)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    assert found.target == "v_prediction"
    torch.testing.assert_close(found.kept.double(), torch.cumprod(1 - betas, 0), rtol=1e-4, atol=1e-6)


def test_what_is_not_there_or_not_of_the_form_is_one_sentence(files: tuple[str, Path], tmp_path: Path) -> None:
    kind, directory = files
    with pytest.raises(DataError, match="expected a JSON file"):
        kind_of(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(DataError, match="got 'AutoencoderKL'"):
        kind_of(tmp_path)
    (tmp_path / "config.json").write_text((directory / "model" / "config.json").read_text())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(DataError, match="expected config.json and safetensors"):
        task_of(directory, model=tmp_path).model()
    with pytest.raises(TaskError, match="at least 3 names"):
        task_of(directory, names=["one"])
    np.savez(tmp_path / "q.npz", images=np.zeros((2, 8, 8)))
    with pytest.raises(DataError, match="expected finite images"):
        read_arrays(tmp_path / "q.npz")
    if kind == "prompts":
        np.savez(tmp_path / "q.npz", images=np.zeros((2, 4, 8, 8)))
        with pytest.raises(DataError, match="expected prompts"):
            task_of(directory, query=tmp_path / "q.npz")
        with pytest.raises(DataError, match="has no prompt"):
            task_of(directory).read(tmp_path / "x.npy", None)
