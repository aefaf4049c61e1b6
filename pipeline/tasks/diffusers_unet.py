"""A U-Net of the `diffusers` library with local weights, on images or latents of yours: the task `diffusers`.

The model is read from a directory that `save_pretrained` wrote (config.json and safetensors; or a pipeline's, with
`unet` and `scheduler` in it); nothing is fetched, and no code that lies beside the weights is run. What it is asked to
foresee is what its scheduler says that it was trained on: noise, image or velocity. `UNet2DModel`, with classes or
without, and `UNet2DConditionModel` under embeddings of prompts that you bring, without classifier-free guidance.
"""

from __future__ import annotations

import importlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Row, Shown
from pipeline.tasks.diffusion import Diffusion, DiffusionRows, Grid, Pictures, Schedule

REQUIREMENT = "pip install 'lowland[diffusion]'"
KINDS = ("UNet2DModel", "UNet2DConditionModel")
NO_SCHEDULER = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
"""Where there is no scheduler_config.json: that of Ho, Jain, Abbeel 2020, with epsilon as the target."""
SPLITS = ("train", "validation", "query")


class DiffusersUnet(Diffusion):
    """A pretrained U-Net.

    Options:
        model: directory.
        train, validation, query: .npz files with images [N, C, S, S] float, as the model takes them (-1 to 1; or
            latents: the mean of the encoder, not a draw of it); labels [N], where it has classes;
            prompts [N, L, D], embeddings, for a UNet2DConditionModel.
        names: names of the classes, for groups; null: their numbers.
        parts, grid, noise, measure, seed: see `Diffusion`.
    """

    def __init__(
        self,
        model: Path,
        train: Path,
        validation: Path,
        query: Path,
        names: list[str] | None = None,
        parts: int = 5,
        grid: str = "even",
        noise: str = "shared",
        measure: str = "error",
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        self._weights = _part_of(Path(model), "unet")
        self._kind, self._conditioned, self.told = kind_of(self._weights)
        self._files = dict(zip(SPLITS, (Path(train), Path(validation), Path(query)), strict=True))
        held = {split: read_arrays(file) for split, file in self._files.items()}
        self._prompts = {split: _prompts(arrays, self._files[split]) for split, arrays in held.items()} \
            if self._conditioned else {}  # fmt: skip
        most = 1 + max((int(arrays["labels"].max()) for arrays in held.values() if len(arrays["labels"])), default=0)
        if names is not None and len(names) < most:
            raise TaskError(f"expected at least {most} names, one a class, got {len(names)}; mend task.options")
        splits = {split: Pictures(arrays["images"], arrays["labels"]) for split, arrays in held.items()}
        names = names or [str(number) for number in range(most)]
        super().__init__(splits, names, schedule_of(Path(model)), Grid(parts, grid, noise, measure, seed))

    def model(self) -> nn.Module:
        """The pretrained model."""
        diffusers = _library()
        try:
            found: nn.Module = getattr(diffusers, self._kind).from_pretrained(
                str(self._weights), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"expected config.json and safetensors of a {self._kind} in {self._weights}, got: {first}; save them "
                "there with save_pretrained"
            ) from error
        return found.eval()

    def foreseen(self, model: nn.Module, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """What the U-Net says of x_t; `labels` are classes [B], or prompts [B, L, D]."""
        name = "encoder_hidden_states" if self._conditioned else "class_labels"
        known = {name: labels} if self._conditioned or self.told else {}
        found: Tensor = model(noisy, times, return_dict=False, **known)[0]
        return found

    def train(self, model: nn.Module) -> None:
        """Leave the weights as they are."""

    def groups(self, split: str) -> list[str]:
        """The class of each image."""
        return [self._names[int(label)] for label in self._splits[split].labels]

    def sources(self) -> list[str | Path]:
        """The files of images; the weights are the model's."""
        return list(self._files.values())

    def _rows(self, split: str) -> DiffusionRows:
        rows = super()._rows(split)
        return PromptedRows(rows, self._prompts[split]) if self._conditioned else rows

    def show(self, row: Row) -> Shown:
        """The picture; of latents with another number of channels than 1 or 3, the first."""
        image = row["clean"][0]
        return super().show(row if len(image) in (1, 3) else {**row, "clean": row["clean"][:, :1]})

    def read(self, path: Path, label: str | None) -> Row:
        """A picture with its class; of a model under prompts, only rows of its files can be asked for."""
        if self._conditioned:
            raise DataError(f"expected a row of the run, got {path}, which has no prompt; add it to the option query")
        return super().read(path, label)


class PromptedRows(DiffusionRows):
    """Rows whose label is the embedding of a prompt, [L, D]."""

    def __init__(self, rows: DiffusionRows, prompts: Tensor) -> None:
        """Rows, and a prompt for each."""
        vars(self).update(vars(rows))
        self._prompts = prompts

    def __getitem__(self, index: int) -> Row:
        """The row `index`."""
        return {**super().__getitem__(index), "label": self._prompts[index]}


def kind_of(directory: Path) -> tuple[str, bool, bool]:
    """The class of a U-Net, whether it is asked under prompts, and whether it is told a class.

    Raises:
        DataError: no config, or of another model.
    """
    config = _json(directory / "config.json")
    kind = config.get("_class_name")
    if kind not in KINDS:
        raise DataError(f"expected a {' or '.join(KINDS)} in {directory}, got {kind!r}; name its directory in model")
    told = config.get("num_class_embeds") is not None or config.get("class_embed_type") is not None
    return str(kind), kind == "UNet2DConditionModel", told


def schedule_of(directory: Path) -> Schedule:
    """The process that a model was trained on, from its scheduler's config where there is one.

    Raises:
        DataError: a scheduler that is none of `diffusers`' discrete variance schedules.
    """
    places = [directory / part / "scheduler_config.json" for part in ("scheduler", ".")]
    settings = next((_json(place) for place in places if place.is_file()), NO_SCHEDULER)
    try:
        known = {key: value for key, value in settings.items() if not key.startswith("_")}
        kept = _library().DDPMScheduler.from_config(known).alphas_cumprod.float()
    except (NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"expected a schedule of variances in {directory}, got {error}; see diffusers") from error
    target = str(settings.get("prediction_type", "epsilon"))
    if target not in ("epsilon", "sample", "v_prediction"):
        raise DataError(f"expected prediction_type epsilon, sample or v_prediction in {directory}, got {target!r}")
    return Schedule(kept, target)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Images, labels (zeros, where there are none) and perhaps prompts of an .npz file.

    Raises:
        DataError: no such file, or not of this form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"expected an .npz file with images at {path}, got {error}; see the task diffusers") from error
    images = held.get("images")
    if images is None or images.dim() != 4 or not bool(torch.isfinite(images).all()):
        raise DataError(f"expected finite images [N, C, S, S] in {path}, got {_shapes(held)}; write them so")
    labels = held.get("labels", torch.zeros(len(images), dtype=torch.int64))
    if labels.shape != images.shape[:1] or labels.is_floating_point() or (len(labels) and int(labels.min()) < 0):
        raise DataError(f"expected labels [N] from 0 up in {path}, got {_shapes(held)}; write one an image")
    return {**held, "images": images.float(), "labels": labels.long()}


def _prompts(held: dict[str, Tensor], path: Path) -> Tensor:
    prompts = held.get("prompts")
    if prompts is None or prompts.dim() != 3 or len(prompts) != len(held["images"]):
        raise DataError(f"expected prompts [N, L, D] in {path}, one an image, got {_shapes(held)}; add them")
    return prompts.float()


def _shapes(held: dict[str, Tensor]) -> str:
    return ", ".join(f"{name} {list(values.shape)}" for name, values in held.items()) or "nothing"


def _part_of(directory: Path, name: str) -> Path:
    return directory / name if (directory / name / "config.json").is_file() else directory


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected a JSON file at {path}, got {error}; name a directory of save_pretrained") from error
    if not isinstance(found, dict):
        raise DataError(f"expected names and values in {path}, got {type(found).__name__}; mend the file")
    return found


def _library() -> Any:
    try:
        diffusers = importlib.import_module("diffusers")  # optional, and seconds of import: only this task needs it
    except ImportError as error:
        raise DataError(f"expected the package diffusers for the task diffusers, got {error}; {REQUIREMENT}") from error
    diffusers.utils.logging.set_verbosity_error()  # tasks print nothing
    return diffusers
