"""Codes on disk: float32 gradients in K coordinates to one of three encodings and back. numpy only.

* `float32`: as they are.
* `bf16`: the upper half of a float32, rounded to nearest even, kept as uint16. Relative error <= 2^-8.
* `int8`: value = code x row_scale x column_scale. Column scales are fitted once with the projection; they keep
  coordinates of low energy, which preconditioning amplifies. Row scales keep rows of any norm. Error per coordinate
  <= row_scale x column_scale / 2.

Gradient norms at a flat minimum span ten orders of magnitude, which is why no encoding is fp16. Letters: n rows, K
coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import LowlandError

Array = np.ndarray[Any, Any]

ENCODINGS = ("int8", "bf16", "float32")
LEVELS = 127
SCALE_FLOOR = 0.01
"""Least column scale as a share of their mean: a coordinate that the sample never used must not dwarf the others."""


@dataclass(frozen=True)
class Codec:
    """An encoding with its column scales [K], float32 (all ones but for int8)."""

    encoding: str
    column_scale: Array

    def encode(self, rows: Array) -> tuple[Array, Array]:
        """Rows [n, K] float32 to stored values [n, K] and row scales [n] float32.

        Raises:
            LowlandError: int8 was asked to keep a row that is not finite.
        """
        rows = np.asarray(rows, np.float32)
        ones = np.ones(len(rows), np.float32)
        if self.encoding == "float32":
            return rows, ones
        if self.encoding == "bf16":
            return to_bf16(rows), ones
        scaled = rows / self.column_scale
        row_scale = (np.abs(scaled).max(1, initial=0) / LEVELS).astype(np.float32)
        if not np.isfinite(row_scale).all():
            wrong = np.nonzero(~np.isfinite(row_scale))[0]
            raise LowlandError(
                f"expected finite rows to encode as int8, got others at {wrong[:5].tolist()}; flag and zero them"
            )
        # A subnormal scale would lose digits, a zero one divides by zero: such rows are zero in float32 anyway.
        safe = np.where(row_scale < np.finfo(np.float32).tiny, np.float32(np.inf), row_scale)
        values = np.clip(np.rint(scaled / safe[:, None]), -LEVELS, LEVELS).astype(np.int8)
        return values, np.where(np.isinf(safe), np.float32(0), row_scale)

    def decode(self, values: Array, row_scale: Array) -> Array:
        """Stored values [n, K] and row scales [n] to rows [n, K] float32."""
        if self.encoding == "float32":
            return np.asarray(values, np.float32)
        if self.encoding == "bf16":
            return from_bf16(values)
        return values.astype(np.float32) * row_scale[:, None] * self.column_scale

    def round_trip(self, rows: Array) -> Array:
        """What a reader of the store sees of these rows, [n, K] float32."""
        return self.decode(*self.encode(rows))


def fit_codec(encoding: str, rows: Array) -> Codec:
    """A codec for rows like these, [n, K].

    Column scale j is the root mean square of coordinate j over rows brought to unit length, so that neither rows of
    large norm nor coordinates of large energy decide for the others.
    """
    dimension = rows.shape[1]
    if encoding != "int8":
        return Codec(encoding, np.ones(dimension, np.float32))
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    units = rows[usable] / norms[usable, None]
    scale = np.sqrt(np.mean(units**2, axis=0)) if len(units) else np.ones(dimension)
    return Codec(encoding, np.maximum(scale, SCALE_FLOOR * scale.mean()).astype(np.float32))


def to_bf16(rows: Array) -> Array:
    """float32 to bfloat16 as uint16, rounded to nearest even; infinities and NaN keep their kind."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
    return np.where(
        np.isfinite(rows), rounded, (bits >> 16) | np.where(np.isnan(rows), np.uint32(0x40), np.uint32(0))
    ).astype(np.uint16)


def from_bf16(values: Array) -> Array:
    """bfloat16 as uint16 to float32, exactly."""
    return (values.astype(np.uint32) << 16).view(np.float32)
