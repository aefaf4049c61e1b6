"""Images of 16 x 16 pixels in several sets that look unlike each other: what the diffusion task learns.

`digits` are scikit-learn's 8 x 8, smoothed up; `letters` are drawn here of straight strokes, each turned, moved and of
a thickness of its own; `patterns` are stripes, checks, rings, dots and slopes; `fashion` is Fashion-MNIST, where its
files are. All from 0 (dark) to 1. Letters: n images.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.tasks.idx_images import FASHION_NAMES, HOW_TO_GET_FASHION, idx_file, read_pair
from pipeline.tasks.noise import stream

SIDE = 16
Array = np.ndarray[Any, Any]

STROKES = {
    "A": ((0, 0, 0.5, 1), (0.5, 1, 1, 0), (0.2, 0.4, 0.8, 0.4)),
    "E": ((0, 0, 0, 1), (0, 0, 1, 0), (0, 0.5, 0.8, 0.5), (0, 1, 1, 1)),
    "H": ((0, 0, 0, 1), (1, 0, 1, 1), (0, 0.5, 1, 0.5)),
    "K": ((0, 0, 0, 1), (0, 0.5, 1, 1), (0, 0.5, 1, 0)),
    "L": ((0, 0, 0, 1), (0, 0, 1, 0)),
    "M": ((0, 0, 0, 1), (0, 1, 0.5, 0.4), (0.5, 0.4, 1, 1), (1, 1, 1, 0)),
    "N": ((0, 0, 0, 1), (0, 1, 1, 0), (1, 0, 1, 1)),
    "T": ((0.5, 0, 0.5, 1), (0, 1, 1, 1)),
    "X": ((0, 0, 1, 1), (0, 1, 1, 0)),
    "Z": ((0, 1, 1, 1), (1, 1, 0, 0), (0, 0, 1, 0)),
}
"""Each from (x, y) to (x, y) in a unit square, y upwards."""
PATTERNS = ("stripes across", "stripes down", "checks", "rings", "dots", "slope")
SETS: dict[str, tuple[str, ...]] = {
    "digits": tuple(map(str, range(10))),
    "letters": tuple(STROKES),
    "patterns": PATTERNS,
    "fashion": FASHION_NAMES,
}
"""Names of each set's classes."""


def images_of(name: str, counts: list[int], seed: int, fashion: Path) -> list[tuple[Array, Array]]:
    """Disjoint images [n, 16, 16] float32 and classes [n] of a set, for each count, drawn by a seed.

    Raises:
        DataError: no files of `fashion`, or damaged ones.
    """
    total = sum(counts)
    if name in DRAWN:
        draw = stream(seed, f"images of {name}")
        classes = np.arange(total) % len(SETS[name])
        pictures = np.stack([DRAWN[name](int(number), draw) for number in classes])
    else:
        found, labels = _digits() if name == "digits" else _fashion(fashion)
        chosen = stream(seed, f"images of {name}").permutation(len(labels))[:total]
        pictures, classes = found[chosen], labels[chosen]
    ends = np.cumsum(counts)[:-1]
    order = stream(seed, f"order of {name}").permutation(len(classes))
    return list(zip(np.split(pictures[order], ends), np.split(classes[order], ends), strict=True))


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits  # heavy, and needed for this set alone

    data = load_digits()
    small = torch.from_numpy((data.images / 16).astype(np.float32))[:, None]
    return F.interpolate(small, size=SIDE, mode="bilinear", align_corners=False)[:, 0].numpy(), data.target


def _fashion(directory: Path) -> tuple[Array, Array]:
    files = [idx_file(directory, f"train-{kind}", HOW_TO_GET_FASHION) for kind in
             ("images-idx3-ubyte", "labels-idx1-ubyte")]  # fmt: skip
    pixels, labels = read_pair(files[0], files[1], len(FASHION_NAMES))
    large = torch.from_numpy(pixels[:MOST_FASHION].astype(np.float32) / 255)[:, None]
    return F.adaptive_avg_pool2d(large, SIDE)[:, 0].numpy(), labels[:MOST_FASHION]


MOST_FASHION = 10_000


def letter(number: int, draw: np.random.Generator) -> Array:
    """A letter, turned by up to .25 rad, moved by up to a pixel and a half."""
    angle, size = draw.uniform(-0.25, 0.25), draw.uniform(0.55, 0.75)
    moved, thickness = draw.uniform(-0.1, 0.1, 2), draw.uniform(0.05, 0.09)
    turn = size * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = np.stack(_grid(), -1)  # [16, 16, 2]
    nearest = np.full((SIDE, SIDE), np.inf)
    for stroke in tuple(STROKES.values())[number]:
        first, last = (turn @ (np.array(end) - 0.5) + 0.5 + moved for end in (stroke[:2], stroke[2:]))
        along = np.clip((points - first) @ (last - first) / ((last - first) @ (last - first)), 0, 1)
        gaps = points - first - along[..., None] * (last - first)
        nearest = np.minimum(nearest, np.sqrt(np.square(gaps).sum(-1)))
    return np.clip(1 - (nearest - thickness) * SIDE, 0, 1).astype(np.float32)


def pattern(number: int, draw: np.random.Generator) -> Array:
    """A pattern with a period, a place and a contrast of its own."""
    x, y = _grid()
    period, phase, contrast = draw.uniform(0.2, 0.5), draw.uniform(0, 2 * np.pi, 2), draw.uniform(0.6, 1)
    place = draw.uniform(0.3, 0.7, 2)
    away = np.hypot(x - place[0], y - place[1])
    waves = [np.sin(2 * np.pi * part / period + shift) for part, shift in ((x, phase[0]), (y, phase[1]))]
    drawn = (
        lambda: waves[1],
        lambda: waves[0],
        lambda: np.sign(waves[0]) * np.sign(waves[1]),
        lambda: np.sin(2 * np.pi * away / period + phase[0]),
        lambda: 2 * np.clip(waves[0], 0, 1) * np.clip(waves[1], 0, 1) - 1,
        lambda: 2 * (np.cos(phase[0]) * (x - 0.5) + np.sin(phase[0]) * (y - 0.5)),
    )[number]()
    return (0.5 + 0.5 * contrast * np.clip(drawn, -1, 1)).astype(np.float32)


def _grid() -> tuple[Array, Array]:
    """x and y of the pixels' middles, y upwards, [16, 16] each."""
    middles = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(middles, middles[::-1])
    return x, y


DRAWN: dict[str, Callable[[int, np.random.Generator], Array]] = {"letters": letter, "patterns": pattern}
