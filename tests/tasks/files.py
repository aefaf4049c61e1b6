"""Small files in the formats that the built-in tasks read, made by the tests."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch

WORDS = {-1: "awful bad poor", 0: "table chair lamp", 1: "lovely good fine"}
STEMS = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")


def idx_bytes(array: np.ndarray) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def class_images(count: int, classes: int, side: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise with a bright row for each class: [count, side, side] bytes, [count] labels in turn."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = draw.integers(0, 60, (count, side, side))
    images[np.arange(count), 2 * labels + 1] += 180
    return images.astype(np.uint8), labels


def write_idx(folder: Path, zipped: bool = True, train: int = 80, test: int = 30) -> Path:
    folder.mkdir(exist_ok=True)
    for split, count, seed in (("train", train, 0), ("t10k", test, 1)):
        images, labels = class_images(count, 10, 28, seed)
        for name, array in ((f"{split}-images-idx3-ubyte", images), (f"{split}-labels-idx1-ubyte", labels)):
            data = idx_bytes(array)
            (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)
    return folder


def write_mnist_csv(file: Path, count: int = 60) -> Path:
    images, labels = class_images(count, 10, 28, 2)
    lines = [",".join(map(str, [*image.ravel(), label])) for image, label in zip(images, labels, strict=True)]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def write_cells(folder: Path, count: int = 24) -> Path:
    from PIL import Image

    (folder / "images").mkdir(parents=True)
    images, labels = class_images(count, 2, 40, 3)
    lines = []
    for number, (image, label) in enumerate(zip(images, labels, strict=True), 1):
        Image.fromarray(image).save(folder / "images" / f"cell{number:04d}.png")
        lines.append(f"images/cell{number:04d}.png  {(1 / 3, 2 / 3)[label]:.16f}  mono")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def tar_bytes(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def rating_files(count: int = 30) -> dict[str, bytes]:
    """The eight files of the archive; each sentence has 15 raters, of whom about a fifth err."""
    draw = np.random.default_rng(4)
    files = {}
    for stem in STEMS:
        texts, ratings = [], []
        for number in range(count):
            sign = number % 3 - 1
            said = np.where(draw.random(15) < 0.2, draw.integers(-1, 2, 15), sign) * draw.integers(1, 5, 15)
            texts.append(f"1_{number}\t0.5\t{stem} {number}: It's {WORDS[sign]}, \u00e9t\u00e9!")
            ratings.append(f"1_{number}\t0.5\t1.0\t{said.tolist()}")
        mark = "\ufeff" if stem.startswith("amazon") else ""
        files[f"hutto_ICWSM_2014/{stem}_GroundTruth.txt"] = "\r\n".join(texts).encode()
        files[f"hutto_ICWSM_2014/{stem}_anonDataRatings.txt"] = (mark + "\r\n".join(ratings)).encode()
    return files


def write_ratings(file: Path, **changed: bytes) -> Path:
    """The inner archive; `changed` replaces files by their stem and kind."""
    files = rating_files()
    for name, data in changed.items():
        files[f"hutto_ICWSM_2014/{name}.txt"] = data
    file.write_bytes(tar_bytes({name: data for name, data in files.items() if data}))
    return file


def cifar_images(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """[count, 3072] bytes and [count] labels in turn; a bright red row for each class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    images = draw.integers(0, 60, (count, 3, 32, 32))
    images[np.arange(count), 0, labels % 32] += 180
    return images.astype(np.uint8).reshape(count, -1), labels


def cifar_bytes(images: np.ndarray, labels: np.ndarray, key: str) -> bytes:
    """A batch as the published ones: protocol 2, keys that are bytes."""
    batch = {b"batch_label": b"a batch", key.encode(): labels.tolist(), b"data": images, b"filenames": [b"a.png"]}
    return pickle.dumps(batch, protocol=2)


def write_cifar(
    folder: Path, classes: int = 10, a_batch: int = 30, test: int = 20, zipped: bool = True, tensors: bool = False
) -> Path:
    """Python batches in a directory below `folder`, and beside it the human labels: in each kind others are wrong."""
    inside = folder / f"cifar-{classes}-batches-py"
    inside.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] if classes == 10 else ["train"]
    key = "labels" if classes == 10 else "fine_labels"
    clean = []
    for seed, name in enumerate(names):
        images, labels = cifar_images(a_batch, classes, seed)
        (inside / name).write_bytes(cifar_bytes(images, labels, key))
        clean.append(labels)
    if test:
        images, labels = cifar_images(test, classes, 9)
        (inside / ("test_batch" if classes == 10 else "test")).write_bytes(cifar_bytes(images, labels, key))
    truth = np.concatenate(clean)
    kinds = ("aggre", "worse", "random1", "random2", "random3") if classes == 10 else ("noisy",)
    said = {"clean_label": truth}
    for step, kind in enumerate(kinds, 2):
        name = f"{kind[:-1]}_label{kind[-1]}" if kind[-1].isdigit() else f"{kind}_label"
        said[name] = np.where(np.arange(len(truth)) % step == 0, (truth + 1) % classes, truth)
    if tensors:
        said = {key: torch.from_numpy(labels) for key, labels in said.items()}
    torch.save(said, folder / f"CIFAR-{classes}_human.pt", _use_new_zipfile_serialization=zipped)
    return folder


def write_letters(file: Path, count: int = 260) -> Path:
    """Lines as UCI's: a letter and 16 whole numbers that depend on it."""
    draw = np.random.default_rng(6)
    labels = np.arange(count) % 26
    numbers = (draw.integers(0, 4, (count, 16)) + labels[:, None] // 3 * (np.arange(16) % 2)).tolist()
    lines = [",".join(map(str, [chr(65 + label), *row])) for label, row in zip(labels, numbers, strict=True)]
    file.write_text("\n".join(lines) + "\n")
    return file
