"""Scales of rows and of blocks of 32 coordinates, which `int8` and `mixed` codes are multiplied with. No torch.

A row has one float32 scale, and each of its blocks a byte e that makes it smaller, row_scale x 2^(-e/8): a block is
rounded by its own largest coordinate and not by the row's.

While rows are encoded, they are the last axis, lines [K, n] (`rounding`): rows [n, K] in Fortran order are not copied
first. Letters: n rows, K coordinates, b blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.rounding import BLOCK, BLOCK_STEPS, TINY, find_peaks, find_steps
from pipeline.errors import LowlandError

Array = np.ndarray[Any, Any]

LINES_AT_ONCE = 64


def peaks_of(lines: Array, order: Array, inverse_scale: Array) -> Array:
    """The largest magnitude of each block, [b, n] float32, of rows as lines [K, n]; see `rounding.find_peaks`."""
    peaks = np.zeros((-(-len(lines) // BLOCK), lines.shape[1]), np.int32)
    find_peaks(lines, order, inverse_scale, peaks)
    return peaks.view(np.float32)


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
    """Row scales [n]: the largest magnitude of a row's blocks, [b, n], over the levels that it is to have.

    Raises:
        LowlandError: a row is not finite.
    """
    scale = (peaks.max(0, initial=0) / np.float32(levels)).astype(np.float32)
    if not np.isfinite(scale).all():
        wrong = np.nonzero(~np.isfinite(scale))[0]
        raise LowlandError(
            f"expected finite rows to encode as {encoding}, got others at {wrong[:5].tolist()}; flag and zero them"
        )
    # A subnormal scale would lose digits, a zero one divides by zero: such rows are zero in float32 anyway.
    return np.where(scale < TINY, np.float32(0), scale)


def steps_of(peaks: Array, row_scale: Array, levels: int, hair: float = 1.0) -> tuple[Array, Array, Array]:
    """The e of each block, as rows [n, b] uint8, its step and one over that, [b, n] float32; see `rounding.find_steps`.

    With a hair more than 1, what was decoded, whose blocks stand just on a step, is encoded as it was.
    """
    e = np.empty(peaks.shape, np.uint8)
    steps, inverses = np.empty((2, *peaks.shape), np.float32)
    find_steps(peaks, row_scale, np.float32(levels), np.float32(hair), BLOCK_STEPS, e, steps, inverses)
    return as_rows(e), steps, inverses
