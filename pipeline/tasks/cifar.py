"""CIFAR-10 and CIFAR-100 with the labels that people gave them (CIFAR-10N and CIFAR-100N; Wei et al., ICLR 2022).

Train rows carry the noisy labels and are judged against CIFAR's own. Validation and query rows carry CIFAR's own
labels, which are taken as clean: they are disjoint from the train rows. Query rows come from the test batch where
there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.tasks.augment import flip_and_shift
from pipeline.tasks.cifar_files import CIFAR10, CIFAR100, Layout, find, image_files, read_human, read_images
from pipeline.tasks.classification import LabelledRows, Splits, split_rows
from pipeline.tasks.images import ImageTask
from pipeline.tasks.models import colour_cnn
from pipeline.tasks.noise import Labels
from pipeline.tasks.options import one_of, whole, yes_or_no
from pipeline.tasks.training import Recipe


class Cifar10N(ImageTask):
    """CIFAR-10 with human labels and a small CNN.

    Options:
        path: directory with the python batches and the label file, or with directories that hold them.
        noise: aggregate (9 % wrong), random1 (the default), random2, random3 (17 to 18 %), worst (40 %), or clean.
        labels_file: the label file, where it lies elsewhere or is called otherwise.
        train_size: rows that are trained on and judged.
        validation_size: clean rows, with CIFAR's own labels, drawn from the same train batches.
        query_size: rows of the test batch; without one, of the train batches.
        seed: of the splits.
        epochs: of training. 60 learn the wrong labels by heart; some 10 with augmentation do not.
        augment: mirror and shift the images while training.
        width: channels of the first convolution, a multiple of 8.
    """

    layout: ClassVar[Layout] = CIFAR10

    def __init__(
        self,
        path: Path,
        noise: str | None = None,
        labels_file: Path | None = None,
        train_size: int = 5000,
        validation_size: int = 500,
        query_size: int = 1000,
        seed: int = 0,
        epochs: int = 60,
        augment: bool = False,
        width: int = 32,
    ) -> None:
        """Options: see the class."""
        layout = self.layout
        kinds = (*layout.kinds, "clean")
        kind = one_of("noise", noise or ("random1" if "random1" in kinds else kinds[0]), kinds)
        self._width = whole("width", width, 8) // 8 * 8
        train_files, test_file = image_files(Path(path), layout)
        self._files = [*train_files, *([test_file] if test_file else [])]
        images, clean = read_images(train_files, layout)
        given = clean if kind == "clean" else self._human(Path(path), labels_file, kind, clean)
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        queries = whole("query_size", query_size, 0)
        seed = whole("seed", seed, 0)
        train, validation, *own = split_rows(len(clean), sizes if test_file else [*sizes, queries], seed)
        if test_file:
            others, answers = read_images([test_file], layout)
            (query,) = split_rows(len(answers), [queries], seed)
        else:
            others, answers, query = images, clean, own[0]
        splits = Splits(
            LabelledRows(_to_floats(images[train]), given[train]),
            LabelledRows(_to_floats(images[validation]), clean[validation]),
            LabelledRows(_to_floats(others[query]), answers[query]),
            clean[train],
        )
        change = flip_and_shift if yes_or_no("augment", augment) else None
        recipe = Recipe(whole("epochs", epochs), rate=1e-3, optimizer="adamw", augment=change)
        super().__init__(splits, _names(layout), recipe, side=32, channels=3)

    def model(self) -> nn.Module:
        """Three convolutions with group normalisation and a linear layer."""
        return colour_cnn(self.layout.classes, self._width)

    def sources(self) -> list[str | Path]:
        """The batches and the label file."""
        return list(self._files)

    def _human(self, directory: Path, named: Path | None, kind: str, clean: Labels) -> Labels:
        file = Path(named) if named else find(directory, self.layout.human)
        if file is None:
            raise DataError(
                f"expected the file {self.layout.human} in or below {directory}, found none; {self.layout.advice}, or "
                "name the file in task.options.labels_file"
            )
        self._files.append(file)
        return read_human(file, kind, clean, self.layout)


class Cifar100N(Cifar10N):
    """CIFAR-100 with human labels and a small CNN; options as in Cifar10N, but noise: noisy (40 % wrong) or clean."""

    layout = CIFAR100


def _names(layout: Layout) -> list[str]:
    if layout.classes == 10:
        return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    return [str(label) for label in range(layout.classes)]


def _to_floats(images: np.ndarray[Any, Any]) -> torch.Tensor:
    """[n, 3, 32, 32] bytes to floats, 0 to 1."""
    return torch.from_numpy(images.astype(np.float32) / 255)
