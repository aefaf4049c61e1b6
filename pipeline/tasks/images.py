"""Images as rows ([1 or 3, H, W] float32, 0 to 1, and a label): show them, read one from a file, plant noise.

Pillow belongs to this module. A picture from a file is made grey, where the task's are, and scaled to H x W; .npy and
.json hold the numbers themselves, a pixel's colours last: integers from 0 to 255 are divided by 255, other numbers are
taken as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError
from pipeline.tasks.base import Row, Shown
from pipeline.tasks.classification import Classification, LabelledRows, Splits
from pipeline.tasks.noise import FOLDS, Labels, held_out_probabilities, most_confusable, plant
from pipeline.tasks.options import class_index
from pipeline.tasks.training import Recipe

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
FEATURE_SIDE = 8  # images are pooled to 8 x 8 before the question which classes look alike
FEATURE_ROWS = 2000


@dataclass(frozen=True)
class Noise:
    """Planted noise: kind and rate as in `plant`, and its seed."""

    kind: str
    rate: float
    seed: int


class ImageTask(Classification):
    """Classification of grey or coloured images of one size."""

    def __init__(self, splits: Splits, names: Sequence[str], recipe: Recipe, side: int, channels: int = 1) -> None:
        """As Classification; images are side x side pixels, of one channel or three."""
        super().__init__(splits, names, recipe)
        self._side, self._channels = side, channels

    def show(self, row: Row) -> Shown:
        """The picture, 0 dark and 1 bright."""
        pixels = (255 * row[0].clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0)
        return Shown(image=pixels.squeeze(-1).numpy())

    def read(self, path: Path, label: str | None) -> Row:
        """A picture, or .npy or .json with side x side pixels.

        Raises:
            DataError: the file cannot be read, has another size, or the label is unknown.
        """
        return read_image(path, self._side, self._channels), class_index(label, self.classes)


def planted_splits(images: Tensor, labels: Labels, parts: Sequence[Labels], noise: Noise, classes: int) -> Splits:
    """Train, validation and query rows with planted noise in the train labels.

    Args:
        images: [N, 1, H, W].
        labels: [N] true labels.
        parts: positions of the three splits.
        noise: what to plant.
        classes: C.
    """
    train, validation, query = parts
    given = planted(_features(images[train]), labels[train], noise, classes)
    return Splits(
        LabelledRows(images[train], given),
        LabelledRows(images[validation], labels[validation]),
        LabelledRows(images[query], labels[query]),
        labels[train],
    )


def planted(features: np.ndarray[Any, Any], labels: Labels, noise: Noise, classes: int) -> Labels:
    """Labels [N] with planted noise; `features` [N, D] tell which classes and rows are hard to tell apart."""
    confusable = chances = None
    if noise.kind == "confusable":
        confusable = most_confusable(features[:FEATURE_ROWS], labels[:FEATURE_ROWS], classes, noise.seed)
    if noise.kind == "instance":
        chances = held_out_probabilities(features, labels, FOLDS, noise.seed)
    return plant(labels, noise.kind, noise.rate, classes, noise.seed, confusable, chances)


def _features(images: Tensor) -> np.ndarray[Any, Any]:
    """[N, 1, H, W] to [N, 64]."""
    return torch.nn.functional.adaptive_avg_pool2d(images, FEATURE_SIDE).flatten(1).numpy()


def read_image(path: Path, side: int, channels: int = 1) -> Tensor:
    """[channels, side, side], float32, from a picture, .npy or .json.

    Raises:
        DataError: no such file, not readable, or of another size.
    """
    if not path.is_file():
        raise DataError(f"expected a file at {path}, found none; mend the path")
    kind = path.suffix.lower()
    if kind in PICTURES:
        return read_picture(path, side, channels)
    if kind not in (".npy", ".json"):
        raise DataError(f"expected .npy, .json or a picture ({', '.join(PICTURES)}), got {path.name}; convert it")
    values = _read_numbers(path)
    shape = (side, side, channels) if channels > 1 else (side, side)
    if values.size != math.prod(shape):
        raise DataError(
            f"expected {' x '.join(map(str, shape))} = {math.prod(shape)} numbers in {path.name}, got {values.size}; "
            "resize it"
        )
    scale = 255 if np.issubdtype(values.dtype, np.integer) else 1
    image = torch.from_numpy(values.astype(np.float32) / scale).reshape(side, side, channels).permute(2, 0, 1)
    if not bool(torch.isfinite(image).all()):
        raise DataError(f"expected finite numbers in {path.name}, got NaN or infinity; mend the file")
    return image


def _read_numbers(path: Path) -> np.ndarray[Any, Any]:
    try:
        values = np.asarray(
            np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else json.loads(path.read_text("utf-8"))
        )
    except Exception as error:
        raise DataError(
            f"expected an array of numbers in {path.name}, got {type(error).__name__}: {error}; mend the file"
        ) from error
    if not np.issubdtype(values.dtype, np.number) or np.issubdtype(values.dtype, np.complexfloating):
        raise DataError(f"expected an array of numbers in {path.name}, got {values.dtype}; give rows of equal length")
    return values


def read_picture(path: Path, side: int, channels: int = 1) -> Tensor:
    """[channels, side, side], 0 to 1, grey for one channel; scaled by the mean over the pixels that fall together.

    Raises:
        DataError: Pillow cannot read it.
    """
    from PIL import Image  # only who reads pictures needs Pillow

    try:
        with Image.open(path) as picture:
            scaled = picture.convert("L" if channels == 1 else "RGB").resize((side, side), Image.Resampling.BOX)
    except Exception as error:
        raise DataError(
            f"expected a picture in {path.name}, got {type(error).__name__}: {error}; save it as PNG again"
        ) from error
    pixels = np.asarray(scaled, dtype=np.float32).reshape(side, side, channels)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)
