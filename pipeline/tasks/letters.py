"""Letter recognition: 20,000 printed capitals as 16 measured numbers each, 26 classes (Frey and Slate 1991).

Read from UCI's letter-recognition.data (lines "T,2,8,3,...": the letter and 16 whole numbers) or from the file
LetterRecognition.rda of R's package mlbench.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.tasks.base import Row, Shown
from pipeline.tasks.classification import Classification, LabelledRows, Splits, split_rows
from pipeline.tasks.images import Noise, planted
from pipeline.tasks.models import mlp
from pipeline.tasks.noise import Labels
from pipeline.tasks.options import whole
from pipeline.tasks.r_data import read_frame
from pipeline.tasks.training import Recipe

NUMBERS = 16
HOW_TO_GET = (
    "install Debian's package r-cran-mlbench, or name UCI's letter-recognition.data "
    "(https://archive.ics.uci.edu/dataset/59) in task.options.path"
)


class Letters(Classification):
    """Capital letters and an MLP 16-128-128-26.

    Options:
        path: letter-recognition.data or LetterRecognition.rda.
        train_size, validation_size, query_size: rows of each split, drawn by one seeded permutation.
        noise: none, uniform (the default), confusable or instance; planted in the train labels only.
        noise_rate: share of the train labels that are flipped.
        seed: of the splits and of the noise.
        epochs: of training. 80 learn the noise by heart, 6 do not.
    """

    def __init__(
        self,
        path: Path = Path("/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda"),
        train_size: int = 5000,
        validation_size: int = 500,
        query_size: int = 1000,
        noise: str = "uniform",
        noise_rate: float = 0.2,
        seed: int = 0,
        epochs: int = 80,
    ) -> None:
        """Options: see the class."""
        self._file = Path(path)
        numbers, labels = read_letters(self._file)
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        parts = split_rows(len(labels), [*sizes, whole("query_size", query_size, 0)], whole("seed", seed, 0))
        train, validation, query = parts
        scaled = ((numbers - numbers.mean(0)) / numbers.std(0)).astype(np.float32)
        given = planted(scaled[train], labels[train], Noise(noise, noise_rate, seed), len(string.ascii_uppercase))
        rows = torch.from_numpy(scaled)
        splits = Splits(
            LabelledRows(rows[train], given),
            LabelledRows(rows[validation], labels[validation]),
            LabelledRows(rows[query], labels[query]),
            labels[train],
        )
        super().__init__(splits, list(string.ascii_uppercase), Recipe(whole("epochs", epochs)))

    def model(self) -> nn.Module:
        """MLP 16-128-128-26, 22,042 parameters."""
        return mlp([NUMBERS, 128, 128, 26])

    def sources(self) -> list[str | Path]:
        """The file."""
        return [self._file]

    def show(self, row: Row) -> Shown:
        """The scaled numbers."""
        return Shown(table={str(i): round(float(value), 2) for i, value in enumerate(row[0])})


def read_letters(file: Path) -> tuple[np.ndarray[Any, Any], Labels]:
    """Numbers [N, 16] float64 and letters [N], 0 to 25.

    Raises:
        DataError: no such file, or of another form.
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; {HOW_TO_GET}")
    numbers, letters = _from_r(file) if file.suffix.lower() == ".rda" else _from_lines(file)
    known = {letter: number for number, letter in enumerate(string.ascii_uppercase)}
    if numbers.shape[1:] != (NUMBERS,) or not set(letters) <= set(known):
        raise DataError(
            f"expected capital letters and {NUMBERS} numbers in {file.name}, got {numbers.shape[1:]} and "
            f"{sorted(set(letters) - set(known))[:3]}; {HOW_TO_GET}"
        )
    return numbers, np.array([known[letter] for letter in letters], dtype=np.int64)


def _from_r(file: Path) -> tuple[np.ndarray[Any, Any], list[str]]:
    frame = read_frame(file, "LetterRecognition")
    letters = [str(letter) for letter in frame.pop("lettr", [])]
    return np.stack([np.asarray(values, float) for values in frame.values()], 1), letters


def _from_lines(file: Path) -> tuple[np.ndarray[Any, Any], list[str]]:
    try:
        lines = [line.split(",") for line in file.read_text("ascii").splitlines() if line]
        return np.array([line[1:] for line in lines], float), [line[0] for line in lines]
    except (ValueError, OSError) as error:
        raise DataError(f"expected lines of a letter and numbers in {file.name}, got {error}; {HOW_TO_GET}") from error
