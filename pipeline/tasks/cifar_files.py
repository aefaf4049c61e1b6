"""The published files of CIFAR-10/100 and of their human labels CIFAR-10N/100N, read from a directory.

CIFAR (https://www.cs.toronto.edu/~kriz/cifar.html), python version: pickled dicts, `data_batch_1` to `data_batch_5` and
`test_batch`, or `train` and `test`, with `data` [n, 3072] uint8 (red, green, blue planes of 32 x 32, row by row) and
`labels`, or `fine_labels`. CIFAR-N (http://noisylabels.com, https://github.com/UCSC-REAL/cifar-10-100n): a dict saved
by torch with arrays, or tensors, of one label for each of the 50,000 train images, in the order of the batches:
`clean_label` and what people said. Files are looked for in the directory and up to two levels below it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError
from pipeline.tasks.noise import Labels
from pipeline.tasks.pickled_arrays import read_pickled

PIXELS = 3 * 32 * 32
ADVICE = (
    "put {} of https://www.cs.toronto.edu/~kriz/cifar.html, unpacked, and {} of "
    "https://github.com/UCSC-REAL/cifar-10-100n into one directory and name it in task.options.path"
)


@dataclass(frozen=True)
class Layout:
    """How one of the two sets lies in files.

    Attributes:
        classes: C.
        train: names of the train batches, in order; those at the end may be missing.
        test: name of the test batch; it may be missing.
        labels: key of the labels in a batch.
        human: name of the file with human labels.
        kinds: option to key in that file.
        advice: where the files come from.
    """

    classes: int
    train: tuple[str, ...]
    test: str
    labels: str
    human: str
    kinds: dict[str, str]
    advice: str


CIFAR10 = Layout(
    classes=10,
    train=tuple(f"data_batch_{i}" for i in range(1, 6)),
    test="test_batch",
    labels="labels",
    human="CIFAR-10_human.pt",
    kinds={
        "aggregate": "aggre_label",
        "worst": "worse_label",
        "random1": "random_label1",
        "random2": "random_label2",
        "random3": "random_label3",
    },
    advice=ADVICE.format("cifar-10-python.tar.gz", "CIFAR-10_human.pt"),
)
CIFAR100 = Layout(
    classes=100,
    train=("train",),
    test="test",
    labels="fine_labels",
    human="CIFAR-100_human.pt",
    kinds={"noisy": "noisy_label"},
    advice=ADVICE.format("cifar-100-python.tar.gz", "CIFAR-100_human.pt"),
)


def find(directory: Path, name: str) -> Path | None:
    """The file `name` in `directory`, or one or two levels below it; the nearest, first by name."""
    for pattern in (name, f"*/{name}", f"*/*/{name}"):
        found = sorted(path for path in directory.glob(pattern) if path.is_file())
        if found:
            return found[0]
    return None


def image_files(directory: Path, layout: Layout) -> tuple[list[Path], Path | None]:
    """The train batches that there are, without a gap, and the test batch.

    Raises:
        DataError: the first batch is missing, or one between others.
    """
    found = [find(directory, name) for name in layout.train]
    present = [path for path in found if path is not None]
    if not present or found[: len(present)] != present:
        missing = layout.train[found.index(None)]
        raise DataError(f"expected the file {missing} in or below {directory}, found none; {layout.advice}")
    return present, find(directory, layout.test)


def read_images(files: list[Path], layout: Layout) -> tuple[np.ndarray[Any, Any], Labels]:
    """Images [n, 3, 32, 32] uint8 and labels [n] of the batches, one after the other.

    Raises:
        DataError: a file is damaged or of another form.
    """
    images, labels = zip(*(_read_batch(file, layout) for file in files), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def _read_batch(file: Path, layout: Layout) -> tuple[np.ndarray[Any, Any], Labels]:
    batch = read_pickled(file)
    data = batch.get("data")
    if not (isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (PIXELS,)):
        got = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"expected 'data' [n, {PIXELS}] uint8 in {file.name}, got {got}; {layout.advice}")
    labels = _labels(batch, layout.labels, file, layout)
    if len(labels) != len(data):
        raise DataError(f"expected {len(data)} labels in {file.name}, one an image, got {len(labels)}; get it again")
    return data.reshape(-1, 3, 32, 32), labels


def read_human(file: Path, kind: str, clean: Labels, layout: Layout) -> Labels:
    """What people said of the first rows, [n].

    Args:
        file: the label file.
        kind: a key of `layout.kinds`.
        clean: [n] labels in the batches, which the file repeats: they prove that both are in the same order.
        layout: of the set.

    Raises:
        DataError: damaged, no such labels, too few of them, or of other images.
    """
    said = read_pickled(file)
    labels = _labels(said, layout.kinds[kind], file, layout)
    if len(labels) < len(clean):
        raise DataError(f"expected {len(clean)} labels in {file.name}, one a train image, got {len(labels)}")
    repeated = _labels(said, "clean_label", file, layout)[: len(clean)]
    if not np.array_equal(repeated, clean):
        raise DataError(
            f"expected clean_label in {file.name} to repeat the labels of the batches, got "
            f"{int((repeated != clean).sum())} others; take both from their sources, unchanged and in their order"
        )
    return labels[: len(clean)]


def _labels(source: dict[str, Any], key: str, file: Path, layout: Layout) -> Labels:
    """[n] int64 under `key`, checked."""
    if key not in source:
        raise DataError(
            f"expected '{key}' in {file.name}, got {', '.join(sorted(source)) or 'nothing'}; {layout.advice}"
        )
    labels = np.asarray(source[key])
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"expected '{key}' in {file.name} to be whole numbers [n], got {labels.dtype} {labels.shape}")
    if len(labels) and (labels.min() < 0 or labels.max() >= layout.classes):
        raise DataError(
            f"expected '{key}' in {file.name} from 0 to {layout.classes - 1}, got {labels.min()} to {labels.max()}; "
            "use the right file"
        )
    return labels.astype(np.int64)
