"""Scales of rows and of blocks of 32 coordinates, which `int8` and `mixed` codes are multiplied with. numpy only.

A row has one float32 scale, and each of its blocks a byte e that makes it smaller, row_scale x 2^(-e/8): a block is
rounded by its own largest coordinate and not by the row's. While rows are encoded, coordinates are the first axis, so
that every pass runs along contiguous memory: rows [n, K] in Fortran order are not copied first. Letters: n rows, K
coordinates, b blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.errors import LowlandError

Array = np.ndarray[Any, Any]

BLOCK = 32
BLOCK_STEPS = (2.0 ** (-np.arange(256) / 8)).astype(np.float32)
"""2^(-e/8) for each e."""


def in_blocks(rows: Array, order: Array | None, inverse_scale: Array) -> Array:
    """Rows [n, K] in an order of coordinates and without column scales, [b, 32, n]; filled up with zeros."""
    dimension = len(inverse_scale)
    count = -(-dimension // BLOCK)
    scaled = np.empty((count * BLOCK, len(rows)), np.float32)
    scaled[dimension:] = 0
    lines = rows.T if order is None else np.take(rows.T, order, axis=0)
    with np.errstate(over="ignore"):  # infinity is refused later
        np.multiply(lines, inverse_scale[:, None], out=scaled[:dimension])
    return scaled.reshape(count, BLOCK, len(rows))


def row_scales(peaks: Array, levels: int, encoding: str) -> Array:
    """Row scales [n]: the largest magnitude of a row's blocks, [n, b], over the levels that it is to have.

    Raises:
        LowlandError: a row is not finite.
    """
    scale = (peaks.max(1, initial=0) / np.float32(levels)).astype(np.float32)
    if not np.isfinite(scale).all():
        wrong = np.nonzero(~np.isfinite(scale))[0]
        raise LowlandError(
            f"expected finite rows to encode as {encoding}, got others at {wrong[:5].tolist()}; flag and zero them"
        )
    # A subnormal scale would lose digits, a zero one divides by zero: such rows are zero in float32 anyway.
    return np.where(scale < np.finfo(np.float32).tiny, np.float32(0), scale)


def exponents(peaks: Array, row_scale: Array, levels: int, hair: float = 1e-4) -> Array:
    """The e of each block, [n, b] uint8: the largest that its largest magnitude allows, with no subnormal step.

    With a hair more, what was decoded, whose blocks stand just on a step, is encoded as it was.
    """
    tiny = np.finfo(np.float32).tiny
    least = np.maximum(peaks / np.float32(levels), tiny)
    # A block of zeros under a scale of 4 or more: infinite, and clipped as it should be.
    with np.errstate(over="ignore"):
        found = np.floor(8 * np.log2(np.maximum(row_scale, tiny)[:, None] / least) + hair)
    return np.clip(found, 0, len(BLOCK_STEPS) - 1).astype(np.uint8)


def reciprocal_steps(row_scale: Array, e: Array) -> Array:
    """1 / (row_scale x 2^(-e/8)), [n, b]; zero where the row has no scale, as it is zero whatever its codes are."""
    return 1 / (np.where(row_scale > 0, row_scale, np.float32(np.inf))[:, None] * BLOCK_STEPS[e])
