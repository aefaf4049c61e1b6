"""Answers of the stores by brute force: codes decoded from the raw arrays, H = C + lambda I formed and solved densely.

Nothing of the package is used but the places of files: zarr reads the arrays, numpy does the rest in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr

DAMPING = 1.0
CURVATURE_ROWS = {"trained": "train", "flat": "validation"}


def decoded(run: Path, checkpoint: str, split: str) -> np.ndarray:
    """[n, K] float64: (2 c + 1 - 2^b) / 2^b x row scale 2^(-e/8) x column scale (mixed), e and b for 32 coordinates."""
    projection = zarr.open_group(str(run / f"results/projection/{checkpoint}.zarr"), mode="r")
    scale, block_bits = projection["column_scale"][:], projection["block_bits"][:]
    order = np.argsort(-scale, kind="stable")
    parts = []
    for shard in sorted((run / f"results/gradients/{checkpoint}/{split}").glob("*.zarr")):
        group = zarr.open_group(str(shard), mode="r")
        assert group["codes"].dtype == np.uint8
        # What a code stands for is defined in float32, in this order.
        reach = group["row_scale"][:][:, None] * (2.0 ** (-group["block_scale"][:].astype(float) / 8)).astype(
            np.float32
        )
        shares = np.concatenate(list(_shares(group["codes"][:], block_bits)), axis=1)
        values = np.empty((len(shares), len(scale)), np.float32)
        values[:, order] = (shares * np.repeat(reach, 32, axis=1))[:, : len(scale)]
        parts.append((values * scale).astype(np.float64))
    return np.concatenate(parts)


def _shares(codes: np.ndarray, block_bits: np.ndarray) -> Iterator[np.ndarray]:
    """(2 c + 1 - 2^b) / 2^b of the coordinates of each width, in descending order of their column scales."""
    start = 0
    for bits in (8, 4, 2):
        stop = start + 4 * bits * int((block_bits == bits).sum())
        own = codes[:, start:stop]
        c = np.concatenate([own >> shift & (2**bits - 1) for shift in range(0, 8, bits)], axis=1)
        yield ((2.0 * c + 1 - 2**bits) / 2**bits).astype(np.float32)
        start = stop


def query_vector(run: Path, text: str, split: str, row: int) -> np.ndarray:
    """[K]: the code itself for cosine, else H^-1 g."""
    score, checkpoint = text.split("@")
    code = decoded(run, checkpoint, split)[row]
    if score == "cosine":
        return code
    rows = decoded(run, checkpoint, CURVATURE_ROWS[checkpoint])
    curvature = rows.T @ rows / len(rows)
    absolute = DAMPING * np.trace(curvature) / len(rows)
    return np.linalg.solve(curvature + absolute * np.eye(len(curvature)), code)


def brute_force(run: Path, text: str, split: str, row: int, k: int, bottom: bool) -> tuple[list[int], list[float]]:
    """The k best (or worst) train rows and their scores."""
    score, checkpoint = text.split("@")
    query, rows = query_vector(run, text, split, row), decoded(run, checkpoint, "train")
    values = rows @ query
    if score == "fvm":
        values = values**2
    if score == "cosine":
        values = values / np.linalg.norm(rows, axis=1) / np.linalg.norm(query)
    best = np.argsort(values if bottom else -values, kind="stable")[:k]
    return best.tolist(), values[best].tolist()
