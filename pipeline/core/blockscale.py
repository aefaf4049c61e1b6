"""Scales of rows and of blocks of 32 coordinates, which `int8` and `mixed` codes are multiplied with. No torch.

A row has one float32 scale, and each of its blocks a byte e that makes it smaller, row_scale x 2^(-e/8): a block is
rounded by its own largest coordinate and not by the row's.

While rows are encoded, they are the last axis, lines [K, n] (`rounding`): rows [n, K] in Fortran order are not copied
first. Letters: n rows, K coordinates, b blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.rounding import BLOCK, find_peaks
from pipeline.errors import LowlandError

Array = np.ndarray[Any, Any]

BLOCK_STEPS = (2.0 ** (-np.arange(256) / 8)).astype(np.float32)
"""2^(-e/8) for each e."""
LINES_AT_ONCE = 64


def peaks_of(lines: Array, order: Array, inverse_scale: Array) -> Array:
    """The largest magnitude of each block, [n, b] float32, of rows as lines [K, n]; see `rounding.find_peaks`."""
    peaks = np.zeros((-(-len(lines) // BLOCK), lines.shape[1]), np.int32)
    find_peaks(lines, order, inverse_scale, peaks)
    return peaks.view(np.float32).T


def as_lines(rows: Array) -> Array:
    """Rows [n, K] as lines [K, n] that the loops of `rounding` take; copied only where they must be."""
    return np.require(rows.T, np.float32, ["C", "W"])


def as_rows(lines: Array) -> Array:
    """Lines [m, n] of bytes as rows [n, m]; some lines at a time, for all at once take twice as long."""
    rows = np.empty(lines.shape[::-1], lines.dtype)
    for start in range(0, len(lines), LINES_AT_ONCE):
        rows[:, start : start + LINES_AT_ONCE] = lines[start : start + LINES_AT_ONCE].T
    return rows


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


def steps_of(row_scale: Array, e: Array) -> Array:
    """row_scale x 2^(-e/8) of e [n, b], as [b, n]."""
    steps: Array = row_scale * np.take(BLOCK_STEPS, e.T)
    return steps


def reciprocal(steps: Array) -> Array:
    """1 / steps; zero where the row has no scale, as it is zero whatever its codes are."""
    return np.divide(1, steps, out=np.zeros_like(steps), where=steps > 0)
