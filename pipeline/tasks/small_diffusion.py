"""The task `diffusion`: a small class-conditional U-Net learns sets of images that look unlike each other.

Which set, or which class of it, an image belongs to is what retrieval should find again (DMin's detection rate).
Queries are held-out images, or samples of the model from a file (`generated` in `pipeline.tasks.diffusion`, which
`save_pictures` keeps): `task: {data: {queries: samples.npz}}` trains and fits nothing again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Batch
from pipeline.tasks.diffusion import Diffusion, Grid, Pictures, linear_schedule
from pipeline.tasks.drawn_images import SETS, SIDE, images_of
from pipeline.tasks.options import one_of, whole, yes_or_no
from pipeline.tasks.training import Recipe
from pipeline.tasks.unet import SmallUnet

BATCH_ROWS = 16
"""Better than 32 for the same work: on three sets of 120 images the loss of held-out ones is 8 % lower."""
FEATURE_TIME = 50
"""Little noise: what the lowest blocks make of the image itself."""
SPLITS = ("train", "validation", "query")


class SmallDiffusion(Diffusion):
    """A U-Net of 16 x 16 pixels, T = 1000.

    Options:
        sets: of digits, letters, patterns, fashion.
        fashion: directory of Fashion-MNIST's files, where it is among the sets.
        train_each, validation_each, query_each: images of each set.
        queries: .npz with images [Q, 1, 16, 16] (-1 to 1), labels [Q] and perhaps journey; null: held-out images.
        without: classes that are not trained on, such as "digits 3".
        groups: set, or class: what an image's group is.
        conditional: whether the model is told the class.
        width, epochs, rate: of the U-Net and its training.
        parts, grid, noise, measure, seed: see `Diffusion`.
    """

    def __init__(
        self,
        sets: Sequence[str] = ("digits", "letters", "patterns"),
        fashion: Path = Path("/usr/share/datasets/fashion-mnist"),
        train_each: int = 400,
        validation_each: int = 60,
        query_each: int = 20,
        queries: Path | None = None,
        without: Sequence[str] = (),
        groups: str = "set",
        conditional: bool = True,
        width: int = 16,
        epochs: int = 80,
        rate: float = 2e-3,
        parts: int = 5,
        grid: str = "even",
        noise: str = "shared",
        measure: str = "error",
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        names = [f"{each} {name}" for each in sets for name in SETS[one_of("sets", each, tuple(SETS))]]
        counts = [whole("train_each", train_each), whole("validation_each", validation_each)]
        counts.append(whole("query_each", query_each, 0))
        splits = _splits(sets, names, counts, whole("seed", seed, 0), Path(fashion))
        splits["train"] = _left(splits["train"], [names.index(one_of("without", each, names)) for each in without])
        if queries is not None:
            splits["query"] = read_pictures(Path(queries), len(names))
        super().__init__(splits, names, linear_schedule(), Grid(parts, grid, noise, measure, seed))
        self._by_class = one_of("groups", groups, ("set", "class")) == "class"
        self._classes = len(names) if yes_or_no("conditional", conditional) else 0
        self.told = bool(self._classes)
        self._width = whole("width", width, 4)
        if width % 4:
            raise TaskError(f"expected width to be a multiple of 4, got {width}; mend it under task.options")
        self._recipe = Recipe(whole("epochs", epochs), rate=rate, optimizer="adamw", batch_rows=BATCH_ROWS)
        self._files = [Path(fashion)] * ("fashion" in sets) + ([] if queries is None else [Path(queries)])

    def model(self) -> nn.Module:
        """The U-Net."""
        return SmallUnet(1, self._width, self._classes)

    def foreseen(self, model: nn.Module, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """The noise."""
        found: Tensor = model(noisy, times, labels)
        return found

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The lowest blocks' mean over positions, of the image with hardly any noise, [B, 2 D]."""
        assert isinstance(model, SmallUnet)
        clean, noise = batch["clean"][:, 0], batch["noise"][:, 0]
        times = torch.full_like(batch["label"], FEATURE_TIME)
        return model.features(self.schedule.noisy(clean, noise, times), times, torch.zeros_like(batch["label"]))

    def train(self, model: nn.Module) -> None:
        """Adam on the error of the foreseen noise, at random times, the learning rate on a cosine to zero."""
        pictures, recipe = self._splits["train"], self._recipe
        optimizer = recipe.make(model)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.epochs)
        model.train()
        for _ in range(recipe.epochs):
            for part in torch.randperm(len(pictures.labels)).split(recipe.batch_rows):
                clean, labels = pictures.images[part], pictures.labels[part]
                noise, times = torch.randn_like(clean), torch.randint(len(self.schedule.kept), (len(part),))
                found = self.foreseen(model, self.schedule.noisy(clean, noise, times), times, labels)
                optimizer.zero_grad()
                (found - self.schedule.wanted(clean, noise, times)).square().mean().backward()
                optimizer.step()
            self.epoch_ended(model, float(schedule.get_last_lr()[0]))
            schedule.step()
        model.eval()

    def groups(self, split: str) -> list[str]:
        """The set or class of each image."""
        names = [self._names[int(label)] for label in self._splits[split].labels]
        return names if self._by_class else [name.partition(" ")[0] for name in names]

    def sources(self) -> list[str | Path] | str:
        """Files, where there are any; all else follows from the options."""
        return list(self._files) or "made by the task"


def _splits(sets: Sequence[str], names: list[str], counts: list[int], seed: int, fashion: Path) -> dict[str, Pictures]:
    if not sets or len(set(sets)) < len(sets):
        raise TaskError(f"expected sets to name each set once, at least one, got {list(sets)}; mend task.options")
    found = {each: images_of(each, counts, seed, fashion) for each in sets}
    splits = {}
    for i, split in enumerate(SPLITS):
        images = np.concatenate([parts[i][0] for parts in found.values()])
        labels = np.concatenate([names.index(f"{each} {SETS[each][0]}") + parts[i][1] for each, parts in found.items()])
        splits[split] = Pictures(torch.from_numpy(2 * images[:, None] - 1), torch.from_numpy(labels.astype(np.int64)))
    return splits


def _left(pictures: Pictures, without: list[int]) -> Pictures:
    kept = ~torch.isin(pictures.labels, torch.tensor(without, dtype=torch.int64))
    return Pictures(pictures.images[kept], pictures.labels[kept])


def save_pictures(path: Path, pictures: Pictures) -> None:
    """Keep pictures in an .npz file for the option `queries`."""
    parts = {"images": pictures.images, "labels": pictures.labels, "journey": pictures.journey}
    arrays: dict[str, Any] = {name: part.numpy() for name, part in parts.items() if part is not None}
    np.savez(path, **arrays)


def read_pictures(path: Path, classes: int) -> Pictures:
    """Pictures from such a file.

    Raises:
        DataError: no such file, or not of this form.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            held: dict[str, Any] = {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"expected images and labels in {path}, got {error}; see the option queries") from error
    images, labels = held.get("images"), held.get("labels")
    if images is None or labels is None or images.shape[1:] != (1, SIDE, SIDE) or labels.shape != images.shape[:1]:
        shapes = {name: list(values.shape) for name, values in held.items()}
        raise DataError(f"expected images [Q, 1, {SIDE}, {SIDE}] and labels [Q] in {path}, got {shapes}; write them so")
    if labels.is_floating_point() or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes):
        raise DataError(f"expected labels from 0 to {classes - 1} in {path}, got others; mend the file")
    if not bool(torch.isfinite(images).all()):
        raise DataError(f"expected finite numbers in {path}, got NaN or infinity; mend the file")
    journey = held.get("journey")
    return Pictures(images.float(), labels.long(), None if journey is None else journey.float())
