"""Photographs of 2,624 solar cells (electroluminescence, 300 x 300 grey) with an expert's probability of a defect.

Source: the package elpv-dataset (Deitsch et al. 2019; data CC BY-NC-SA 4.0). Format: a directory with labels.csv, whose
lines are `images/cell0001.png  1.0  mono`, and the pictures. Probabilities are 0, 1/3, 2/3 or 1.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.tasks.classification import LabelledRows, Splits, split_rows
from pipeline.tasks.images import ImageTask, read_picture
from pipeline.tasks.models import norm_cnn
from pipeline.tasks.noise import plant
from pipeline.tasks.options import share, whole
from pipeline.tasks.packaged import file_in_package
from pipeline.tasks.training import Recipe


class SolarCells(ImageTask):
    """Solar cells, whole or defective, and a CNN of 61k parameters with batch normalisation.

    Unlike the other built-in models it does not learn wrong labels by heart in its 30 epochs.

    Options:
        path: directory with labels.csv; null: the one in the installed package elpv-dataset.
        threshold: a cell whose defect probability is at least this is called defective.
        train_size, validation_size, query_size: rows of each split, drawn by one seeded permutation; query_size null:
            all that is left (624 by default).
        side: pictures are averaged down to side x side pixels.
        noise: none (the default), uniform or confusable (the same thing for two classes); planted in the train labels.
        noise_rate: share of the train labels that are flipped.
        seed: of the split and of the noise.
        epochs: of training.
    """

    def __init__(
        self,
        path: Path | None = None,
        threshold: float = 0.5,
        train_size: int = 1600,
        validation_size: int = 400,
        query_size: int | None = None,
        side: int = 64,
        noise: str = "none",
        noise_rate: float = 0.2,
        seed: int = 0,
        epochs: int = 30,
    ) -> None:
        """Options: see the class."""
        folder = Path(path) if path else file_in_package("elpv_dataset", "data", "elpv-dataset==1.0.0.post1")
        self._list = folder / "labels.csv"
        files, probabilities = read_list(self._list)
        labels = (probabilities >= share("threshold", threshold)).astype(np.int64)
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        last = None if query_size is None else whole("query_size", query_size, 0)
        parts = split_rows(len(labels), [*sizes, last], whole("seed", seed, 0))
        side = whole("side", side, 16)
        train, validation, query = (Pictures([files[i] for i in part], side) for part in parts)
        other = np.array([1, 0])
        given = plant(labels[parts[0]], noise, noise_rate, 2, seed, other)
        splits = Splits(
            LabelledRows(train, given),
            LabelledRows(validation, labels[parts[1]]),
            LabelledRows(query, labels[parts[2]]),
            labels[parts[0]],
        )
        super().__init__(splits, ["whole", "defective"], Recipe(whole("epochs", epochs), rate=0.05), side)

    def model(self) -> nn.Module:
        """Four convolutions with batch normalisation."""
        return norm_cnn(2)

    def sources(self) -> list[str | Path]:
        """The list; the pictures belong to it by number and never change."""
        return [self._list]


class Pictures:
    """Pictures that are read when they are first asked for, then kept: a job reads only those of its own rows."""

    def __init__(self, files: list[Path], side: int) -> None:
        """The files, and the side that they are averaged down to."""
        self._files = files
        self._read = lru_cache(maxsize=None)(lambda file: read_picture(file, side))

    def __getitem__(self, index: int) -> Tensor:
        """[1, side, side], 0 to 1.

        Raises:
            DataError: the picture is missing or damaged.
        """
        picture: Tensor = self._read(self._files[index])
        return picture


def read_list(file: Path) -> tuple[list[Path], np.ndarray[Any, Any]]:
    """The files [N] and their defect probabilities [N].

    Raises:
        DataError: no such list, or a line that is not "path probability kind".
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; name the directory of labels.csv in task.options.path")
    files, probabilities = [], []
    for number, line in enumerate(file.read_text("utf-8").splitlines(), 1):
        try:
            name, probability, *_ = line.split()
            probabilities.append(float(probability))
        except ValueError as error:
            raise DataError(
                f"expected 'path probability kind' in line {number} of {file.name}, got '{line[:60]}'; mend it"
            ) from error
        files.append(file.parent / name)
    values = np.array(probabilities)
    if not len(values) or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"expected probabilities from 0 to 1 in {file.name}, got others or none; get the file again")
    return files, values
