"""The sentences of the task `vader` as features of its frozen encoder, computed once a sentence and kept in files.

The encoder takes no part in training nor in any gradient, so that what is attributed, the head, is the same as that of
`vader` with `encoder: minilm`; but no job runs the 22.7 million parameters of the encoder again. `encode` writes
the rows of a cell, the task `Encoded` reads them.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import nn

from pipeline.errors import DataError
from pipeline.tasks.classification import Classification, LabelledRows, Splits
from pipeline.tasks.models import mlp
from pipeline.tasks.sentences import Vader
from pipeline.tasks.training import Recipe

SPLITS = ("train", "validation", "query")
TEXTS_AT_A_TIME = 128
KNOWN = "sentences.npz"
"""Beside the files of the cells: the features of all sentences that have been met."""
ONE_AT_A_TIME = Lock()


def encode(file: Path, **options: Any) -> None:
    """Write features and labels of the rows that `Vader(encoder="minilm", **options)` has, unless the file is there."""
    if file.is_file():
        return
    task = Vader(encoder="minilm", **options)
    rows: dict[str, Any] = {split: getattr(task, f"{split}_rows")() for split in SPLITS}
    with ONE_AT_A_TIME:
        known = _features(task.model().eval(), list(rows.values()), file.with_name(KNOWN))
    arrays = {"truth": np.asarray(task.true_labels)}
    for split, own in rows.items():
        arrays |= {f"{split}_x": np.stack([known[text] for text in own.texts]), f"{split}_y": np.asarray(own.labels)}
    _write(file, arrays)


def _features(encoder: Any, splits: list[Any], file: Path) -> dict[str, Any]:
    """Text to features [384]: those in `file`, and of new texts what the encoder says, which is added to it."""
    known: dict[str, Any] = {}
    if file.is_file():
        with np.load(file) as kept:
            known = dict(zip(kept["texts"].tolist(), kept["features"], strict=True))
    tokens = {text: row for own in splits for text, row in zip(own.texts, own.inputs, strict=True)}
    new = [text for text in tokens if text not in known]
    for start in range(0, len(new), TEXTS_AT_A_TIME):
        part = new[start : start + TEXTS_AT_A_TIME]
        known |= zip(part, encoder.features(torch.stack([tokens[text] for text in part])).numpy(), strict=True)
    if new:
        _write(file, {"texts": np.array(list(known)), "features": np.stack(list(known.values()))})
    return known


def _write(file: Path, arrays: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part.npz")
    np.savez(unfinished, **arrays)
    unfinished.replace(file)


class Encoded(Classification):
    """Features of sentences [384] and a head.

    Options:
        path: what `encode` wrote.
        hidden: width of the head's hidden layer; 0: a linear head.
        epochs: of training.
    """

    def __init__(self, path: str, hidden: int = 64, epochs: int = 100) -> None:
        """Options: see the class."""
        self._file, self._hidden = Path(path), hidden
        if not self._file.is_file():
            raise DataError(f"expected features at {path}, found none; run python -m benchmarks evidence")
        with np.load(self._file) as arrays:
            rows = [LabelledRows(torch.from_numpy(arrays[f"{s}_x"]), arrays[f"{s}_y"]) for s in SPLITS]
            splits = Splits(*rows, arrays["truth"])
        super().__init__(splits, ("negative", "neutral", "positive"), Recipe(epochs, rate=1e-2, optimizer="adamw"))

    def model(self) -> nn.Module:
        """The head that `vader` has."""
        width = self._splits.train[0][0].shape[0]
        return mlp([width, self._hidden, 3] if self._hidden else [width, 3])

    def sources(self) -> list[str | Path]:
        """The file."""
        return [self._file]
