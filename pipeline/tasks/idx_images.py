"""Images in the idx format of MNIST, from a directory: Fashion-MNIST and whatever else comes as these four files.

Format (http://yann.lecun.com/exdb/mnist): two zero bytes, one for the type (8: unsigned bytes), one for the number of
dimensions, then each dimension as a big-endian 32-bit integer, then the bytes. Files may be gzipped (.gz).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.tasks.classification import split_rows
from pipeline.tasks.images import ImageTask, Noise, planted_splits
from pipeline.tasks.models import small_cnn
from pipeline.tasks.noise import Labels
from pipeline.tasks.options import whole
from pipeline.tasks.training import Recipe

FASHION_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"
)  # fmt: skip
HOW_TO_GET_FASHION = (
    "install Debian's package dataset-fashion-mnist, or put the four files of "
    "https://github.com/zalandoresearch/fashion-mnist into a directory and name it in task.options.path"
)
HOW_TO_GET_IDX = "name the directory that holds them (.gz or not) in task.options.path"
UNSIGNED_BYTE = 8


class MnistIdx(ImageTask):
    """MNIST-like data in the four idx files of a directory, and a CNN of 106k parameters.

    Options:
        path: directory with {train,t10k}-{images-idx3,labels-idx1}-ubyte, each with or without .gz.
        train_size, validation_size: rows drawn from the train file by one seeded permutation.
        query_size: rows drawn from the test file.
        side: 28, or 14 to average 2 x 2 pixels.
        noise: none (the default), uniform, confusable or instance; planted in the train labels only.
        noise_rate: share of the train labels that are flipped.
        seed: of the splits and of the noise.
        epochs: of training.
    """

    names: tuple[str, ...] = tuple(str(digit) for digit in range(10))
    advice = HOW_TO_GET_IDX

    def __init__(
        self,
        path: Path,
        train_size: int = 5000,
        validation_size: int = 500,
        query_size: int = 1000,
        side: int = 28,
        noise: str = "none",
        noise_rate: float = 0.2,
        seed: int = 0,
        epochs: int = 80,
    ) -> None:
        """Options: see the class."""
        if side not in (14, 28):
            raise DataError(f"expected side 14 or 28, got {side!r}; choose one of these")
        self._files = [idx_file(Path(path), name, self.advice) for name in _names()]
        images, labels, count = self._read(len(self.names))
        train, validation = split_rows(
            count, [whole("train_size", train_size), whole("validation_size", validation_size)], whole("seed", seed, 0)
        )
        (query,) = split_rows(len(labels) - count, [whole("query_size", query_size, 0)], seed)
        picked = np.concatenate([train, validation, query + count])
        ends = np.cumsum([len(train), len(validation)])
        parts = np.split(np.arange(len(picked)), ends)
        splits = planted_splits(
            _to_floats(images[picked], side), labels[picked], parts, Noise(noise, noise_rate, seed), len(self.names)
        )
        super().__init__(splits, self.names, Recipe(whole("epochs", epochs)), side)

    def model(self) -> nn.Module:
        """Two convolutions, two linear layers."""
        return small_cnn(self._side, len(self.names))

    def sources(self) -> list[str | Path]:
        """The four files."""
        return list(self._files)

    def _read(self, classes: int) -> tuple[np.ndarray[Any, Any], Labels, int]:
        """Images [N, 28, 28] and labels [N] of both files, one after the other, and how many are of the first."""
        train_images, train_labels, test_images, test_labels = self._files
        pairs = [read_pair(train_images, train_labels, classes), read_pair(test_images, test_labels, classes)]
        images, labels = (np.concatenate(both) for both in zip(*pairs, strict=True))
        return images, labels, len(pairs[0][1])


class FashionMnist(MnistIdx):
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes, 28 x 28 grey, ten classes; options as in MnistIdx."""

    names = FASHION_NAMES
    advice = HOW_TO_GET_FASHION

    def __init__(self, path: Path = Path("/usr/share/datasets/fashion-mnist"), **options: Any) -> None:
        """Options: see MnistIdx; `path` is where Debian's package puts the files."""
        super().__init__(path, **options)


def _names() -> list[str]:
    return [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def _to_floats(images: np.ndarray[Any, Any], side: int) -> Tensor:
    """[N, 28, 28] bytes to [N, 1, side, side], 0 to 1."""
    tensor = torch.from_numpy(images.astype(np.float32) / 255).unsqueeze(1)
    return tensor if tensor.shape[-1] == side else torch.nn.functional.avg_pool2d(tensor, tensor.shape[-1] // side)


def idx_file(directory: Path, name: str, advice: str) -> Path:
    """`name` in `directory`, or `name`.gz.

    Raises:
        DataError: neither is there.
    """
    for file in (directory / name, directory / f"{name}.gz"):
        if file.is_file():
            return file
    raise DataError(f"expected {name}[.gz] in {directory}, found none; {advice}")


def read_pair(images: Path, labels: Path, classes: int) -> tuple[np.ndarray[Any, Any], Labels]:
    """Images [N, 28, 28] uint8 and labels [N] int64.

    Raises:
        DataError: the files are damaged, do not belong together, or hold labels beyond C - 1.
    """
    pictures, numbers = read_idx(images, 3), read_idx(labels, 1).astype(np.int64)
    if len(pictures) != len(numbers):
        raise DataError(
            f"expected as many labels as images, got {len(numbers)} in {labels.name} and "
            f"{len(pictures)} in {images.name}; take both files from one source"
        )
    if pictures.shape[1:] != (28, 28):
        raise DataError(f"expected images of 28 x 28 in {images.name}, got {list(pictures.shape[1:])}; convert them")
    if len(numbers) and numbers.max() >= classes:
        raise DataError(
            f"expected labels from 0 to {classes - 1} in {labels.name}, got {numbers.max()}; use the right file"
        )
    return pictures, numbers


def read_idx(file: Path, dimensions: int) -> np.ndarray[Any, Any]:
    """The array in an idx file of unsigned bytes, gzipped or not.

    Raises:
        DataError: not gzip, not idx, another type or number of dimensions, or not as long as its header says.
    """
    again = "download it again"
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"expected a readable file {file.name}, got {type(error).__name__}: {error}; {again}"
        ) from error
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if data[:4] != magic:
        raise DataError(f"expected {file.name} to begin with {magic.hex()} (idx), got {data[:4].hex()}; {again}")
    start = 4 + 4 * dimensions
    if len(data) < start:
        raise DataError(f"expected a header of {start} bytes in {file.name}, got {len(data)}; {again}")
    shape = struct.unpack(f">{dimensions}I", data[4:start])
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"expected {math.prod(shape)} bytes after the header of {file.name}, got {len(data) - start}; {again}"
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
