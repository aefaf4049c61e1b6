"""Codes on disk: float32 gradients in K coordinates to one of four encodings and back. No torch.

* `float32`: as they are.
* `bf16`: the upper half of a float32, rounded to nearest even, kept as uint16. Relative error <= 2^-8.
* `int8`: value = code x row_scale x 2^(-e/8) x column_scale, with e, a byte, for each block of 32 coordinates of a row.
  Error per coordinate <= row_scale x 2^(-e/8) x column_scale / 2. K + K/32 + 4 bytes a row.
* `mixed`: 8, 4 or 2 bits a coordinate, by its energy, 3.5 on average; formula and error in `pipeline.core.mixed`.
  .47 K + 4 bytes a row.

Column scales, fitted once with the projection, keep coordinates of low energy, which preconditioning amplifies. Row
scales keep rows of any norm: gradient norms at a flat minimum span ten orders of magnitude, which is why no encoding
is fp16. Block scales let a block be rounded by its own largest coordinate and not by the row's. Column scales help only
where low energy has coordinates of its own, so projections turn their codes first (`pipeline.core.projection.turned`).

With all rows in int8 or bf16, after the turn, and damping .01, recall@10 of preconditioned inner products against
float32 is at least .98 on gradients of an MLP (K 232 to 1024) and on spectra i^-1.5, i^-2 and exponential over six
decades, on the coordinates or turned at random (`tests/core/test_codec_recall.py`).

Letters: n rows, K coordinates, b blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pipeline.core.blockscale import as_lines, as_rows, peaks_of, row_scales, steps_of
from pipeline.core.mixed import Mixed
from pipeline.core.rounding import BLOCK, BLOCK_STEPS, round_int8

Array = np.ndarray[Any, Any]

ENCODINGS = ("mixed", "int8", "bf16", "float32")
SCALED = ("mixed", "int8")
"""Those with scales of columns, rows and blocks."""
LEVELS = 127
HAIR = 1.00001
"""How far above its highest level a peak may be, for what is rounded stays below 127.5."""
SCALE_FLOOR = 0.01
"""Least column scale as a share of their mean: a coordinate that the sample never used must not dwarf the others."""


class Encoded(NamedTuple):
    """Rows as they are stored; leading dimensions [...] as those of the rows.

    Attributes:
        codes: [..., K] int8, uint16 (bf16) or float32; [..., bytes] uint8 of mixed.
        row_scale: [...] float32; ones but for mixed and int8.
        block_scale: e of each block, [..., b] uint8; b = 0 but for mixed and int8.
    """

    codes: Array
    row_scale: Array
    block_scale: Array

    def columns(self) -> dict[str, Array]:
        """What a store keeps: name to array, without block scales where there are none."""
        return {name: values for name, values in self._asdict().items() if name != "block_scale" or values.shape[-1]}


@dataclass(frozen=True)
class Codec:
    """An encoding with its column scales [K], float32 (all ones but for mixed and int8)."""

    encoding: str
    column_scale: Array

    def encode(self, rows: Array) -> Encoded:
        """Rows [..., K] float32 as stored.

        Raises:
            LowlandError: mixed or int8 was asked to keep a row that is not finite.
        """
        return self.encode_with_norms(rows)[0]

    def encode_with_norms(self, rows: Array) -> tuple[Encoded, Array]:
        """The same, and the norms of what it decodes to, [...] float64."""
        rows = np.asarray(rows, np.float32)
        if self.encoding == "mixed":
            found = self._mixed.encode(rows.reshape(-1, rows.shape[-1]))
            *flat, norms = (part.reshape(*rows.shape[:-1], *part.shape[1:]) for part in found)
            return Encoded(*flat), norms
        stored = self._plainly(rows)
        decoded = self.decode(stored)
        return stored, np.sqrt(np.einsum("...k,...k->...", decoded, decoded, dtype=np.float64))

    def _plainly(self, rows: Array) -> Encoded:
        """Rows in an encoding whose codes are as many as the coordinates."""
        if self.encoding == "int8":
            flat = self._to_int8(rows.reshape(-1, rows.shape[-1]))
            return Encoded(*(part.reshape(*rows.shape[:-1], *part.shape[1:]) for part in flat))
        ones, none = np.ones(rows.shape[:-1], np.float32), np.zeros((*rows.shape[:-1], 0), np.uint8)
        return Encoded(to_bf16(rows) if self.encoding == "bf16" else rows, ones, none)

    def decode(self, stored: Encoded) -> Array:
        """What is stored as rows [..., K] float32. Block scales of bf16 and float32 are not looked at."""
        if self.encoding == "float32":
            return np.asarray(stored.codes, np.float32)
        if self.encoding == "bf16":
            return from_bf16(stored.codes)
        if self.encoding == "mixed":
            lines = (stored.codes, stored.row_scale[..., None], stored.block_scale)
            codes, scales, e = (part.reshape(-1, part.shape[-1]) for part in lines)
            return self._mixed.decode(codes, scales[:, 0], e).reshape(*stored.codes.shape[:-1], self.dimension)
        steps = stored.row_scale[..., None] * BLOCK_STEPS[stored.block_scale]
        rows = stored.codes * self.column_scale
        whole = rows.shape[-1] // BLOCK * BLOCK
        blocks = rows[..., :whole].reshape(*rows.shape[:-1], whole // BLOCK, BLOCK)
        blocks *= steps[..., : whole // BLOCK, None]
        rows[..., whole:] *= steps[..., whole // BLOCK :]
        return rows

    @property
    def folds(self) -> bool:
        """Whether products with rows can be taken before any scale; see `units`."""
        return self.encoding in SCALED

    def units(self, codes: Array, out: Array) -> None:
        """Codes [n, ...] as numbers without scales into [n, b, 32] float32, exactly; only where `folds`.

        A row's product with a vector is the sum over its blocks of row_scale x 2^(-e/8) times the product of these
        numbers with the same block of `folded(vector)`.
        """
        if self.encoding == "mixed":
            self._mixed.units(codes, out)
        else:
            np.copyto(out.reshape(len(out), -1)[:, : self.dimension], codes)

    def folded(self, vectors: Array) -> Array:
        """Vectors [q, K] with the column scales, in the order of the coordinates of `units`."""
        products: Array = self._mixed.folded(vectors) if self.encoding == "mixed" else vectors * self.column_scale
        return products

    def round_trip(self, rows: Array) -> Array:
        """What a reader of the store sees of these rows, [..., K] float32."""
        return self.decode(self.encode(rows))

    @property
    def norm_error(self) -> float:
        """How far norms of `encode_with_norms` may be from those of decoded rows, relative: some are float32 sums."""
        return 1e-6 if self.encoding == "mixed" else 1e-12

    @property
    def dimension(self) -> int:
        """K."""
        return len(self.column_scale)

    def columns(self) -> dict[str, Array]:
        """What a store of the projection keeps: column scales, and the bits of each block of mixed codes."""
        scales = {"column_scale": self.column_scale}
        return {**scales, "block_bits": self._mixed.bits} if self.encoding == "mixed" else scales

    @property
    def row_bytes(self) -> int:
        """Bytes of a stored row, scales and all."""
        return sum(part.nbytes for part in self.encode(np.zeros((1, len(self.column_scale)), np.float32)))

    def _to_int8(self, rows: Array) -> Encoded:
        lines, inverse_scale = as_lines(rows), (1 / self.column_scale).astype(np.float32)
        peaks = peaks_of(lines, np.arange(self.dimension), inverse_scale)
        row_scale = row_scales(peaks, LEVELS, self.encoding)
        e, _, inverses = steps_of(peaks, row_scale, LEVELS, HAIR)
        codes = np.empty(lines.shape, np.int8)
        round_int8(lines, inverse_scale, inverses, codes)
        return Encoded(as_rows(codes), row_scale, e)

    @cached_property
    def _mixed(self) -> Mixed:
        return Mixed(self.column_scale)


def fit_codec(encoding: str, rows: Array) -> Codec:
    """A codec for rows like these, [n, K].

    Column scale j is the root mean square of coordinate j over rows brought to unit length, so that neither rows of
    large norm nor coordinates of large energy decide for the others.
    """
    units = _units(rows)
    if encoding not in SCALED or not len(units):
        return Codec(encoding, np.ones(rows.shape[1], np.float32))
    scale = np.sqrt(np.mean(units**2, axis=0))
    return Codec(encoding, np.maximum(scale, SCALE_FLOOR * scale.mean()).astype(np.float32))


def _units(rows: Array) -> Array:
    """Those rows that have a direction, at unit length, float64."""
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    usable = np.isfinite(norms) & (norms > 0)
    units: Array = rows[usable] / norms[usable, None]
    return units


def to_bf16(rows: Array) -> Array:
    """float32 to bfloat16 as uint16, rounded to nearest even; infinities and NaN keep their kind."""
    bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
    rounded = bits >> 16
    rounded &= 1
    rounded += np.uint32(0x7FFF)
    rounded += bits  # a NaN may wrap around; it is mended below
    values = (rounded >> 16).astype(np.uint16)
    other = (bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000)
    if other.any():
        kept = bits[other] >> 16
        values[other] = np.where(np.isnan(rows[other]), kept | np.uint32(0x40), kept)
    return values


def from_bf16(values: Array) -> Array:
    """bfloat16 as uint16 to float32, exactly."""
    bits = values.astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32)
