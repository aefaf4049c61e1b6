"""Codes of 8, 4 and 2 bits: coordinates that matter more have more of them. No torch.

Rounding to b bits leaves about 2 x 4^-b of a coordinate's energy as noise, leaving a coordinate out all of it. So many
coarse coordinates keep more than few fine ones, but for those of most energy (reverse water-filling: Cover and Thomas,
Elements of Information Theory, 10.3.3). What a coordinate matters is told from its energy t among rows of unit length:
the error of u^T g with u = (C + lambda)^-1 g_query and lambda = tr(C)/M grows with its noise times

    worth = t^2 / (t + lambda)^2

where C has the rows' own energies. Above lambda all coordinates matter alike, below it ever less.

Coordinates are ordered by energy and cut into blocks of 32 (`blockscale`), of one width each. Blocks begin with 2 bits,
the first with 8; then those are widened, 2 to 4 and 4 to 8, that gain most a bit, until `AVERAGE_BITS` are spent.
Widths follow from the column scales alone, so nothing else has to be stored. With p = row_scale x 2^(-e/8), which is no
less than the largest magnitude of a block after division by the column scales,

    value = (2 c + 1 - 2^b) / 2^b x p x column_scale,    c = 0 ... 2^b - 1,    error <= p x column_scale / 2^b

A byte holds two or four codes, from the halves or quarters of the coordinates of that width. Letters: n rows, K
coordinates, b bits, w coordinates of a width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.core.blockscale import as_lines, as_rows, peaks_of, row_scales, steps_of
from pipeline.core.rounding import BLOCK, BLOCK_STEPS, add_energies, round_mixed

Array = np.ndarray[Any, Any]

WIDTHS = (8, 4, 2)
AVERAGE_BITS = 3.5
"""On five models 3 bits kept as much in 1 KiB; with more bits there are fewer coordinates to hold later."""
ROWS = 512
"""M. With the energies of a validation set of 300, and its own M, the widths kept as much within .01."""
ROWS_AT_ONCE = 256
"""Rows that are encoded or decoded at a time, so that they stay in the cache."""
NOISE = {bits: 1.9 * 4.0**-bits for bits in WIDTHS}
"""Share of a coordinate's energy that rounding leaves as noise, for normal coordinates and 2.4 deviations of reach."""


def block_bits(column_scale: Array) -> Array:
    """Bits of each block of coordinates in descending order of their scale, [blocks], never rising."""
    energy = np.square(np.sort(column_scale.astype(np.float64))[::-1])
    starts = np.arange(0, len(energy), BLOCK)
    share = np.add.reduceat(energy, starts) / np.diff([*starts, len(energy)]) / energy.sum()
    worth = np.square(share / (share + 1 / ROWS))
    gains = np.stack([worth * (NOISE[narrow] - NOISE[wide]) / (wide - narrow) for narrow, wide in ((2, 4), (4, 8))])
    bits = np.full(len(starts), 2)
    bits[0] = 8
    left = int(AVERAGE_BITS * len(starts)) - bits.sum()
    for place in np.argsort(-gains, axis=None, kind="stable"):
        step, block = np.unravel_index(place, gains.shape)
        narrow, wide = ((2, 4), (4, 8))[step]
        if bits[block] == narrow and wide - narrow <= left:
            bits[block] = wide
            left -= wide - narrow
    return -np.sort(-bits)  # what is left may have widened a block below a narrower one


@dataclass(frozen=True)
class Mixed:
    """How rows of K coordinates with these column scales, [K] float32, are rounded."""

    column_scale: Array

    @cached_property
    def bits(self) -> Array:
        """Of each block, [blocks] uint8."""
        return block_bits(self.column_scale).astype(np.uint8)

    @cached_property
    def _order(self) -> Array:
        return np.argsort(-self.column_scale, kind="stable")

    @cached_property
    def _places(self) -> Array:
        """Where each coordinate stands in the order."""
        return np.argsort(self._order)

    @cached_property
    def _columns(self) -> tuple[Array, Array, Array]:
        """Of each coordinate in order: itself, its inverse scale and its squared scale."""
        scale = self.column_scale[self._order]
        return self._order, (1 / scale).astype(np.float32), np.square(scale).astype(np.float32)

    @cached_property
    def _bytes(self) -> tuple[Array, Array]:
        """Of each coordinate in order, those included that fill up the last block: its byte, and 2^(its first bit)."""
        places, shifts = np.empty((2, len(self.bits) * BLOCK), np.int64)
        for bits, blocks, place in self._regions:
            own = slice(blocks.start * BLOCK, blocks.stop * BLOCK)
            part, at = np.divmod(np.arange(own.stop - own.start), place.stop - place.start)
            places[own], shifts[own] = place.start + at, 1 << bits * part
        return places, shifts.astype(np.uint8)

    @cached_property
    def _filling(self) -> tuple[Array, Array]:
        """The bytes that what fills up the last block is in, and what it is there, zeros in code, uint8."""
        places, shifts = (each[len(self._order) :] for each in self._bytes)
        found = np.zeros(self._regions[-1][2].stop, np.uint8)
        np.bitwise_or.at(found, places, shifts << (self.bits[-1] - 1))
        return places, found[places]

    @cached_property
    def _regions(self) -> list[tuple[int, slice, slice]]:
        """Of each width that occurs: bits, its blocks, and its bytes in a row."""
        found, first, start = [], 0, 0
        for bits in WIDTHS:
            count = int((self.bits == bits).sum())
            size = count * BLOCK * bits // 8
            if count:
                found.append((bits, slice(first, first + count), slice(start, start + size)))
            first, start = first + count, start + size
        return found

    def encode(self, rows: Array) -> tuple[Array, Array, Array, Array]:
        """Rows as they are stored.

        Args:
            rows: [n, K] float32, best in Fortran order.

        Returns:
            Codes [n, bytes] uint8, row scales [n] float32, e of each block [n, blocks] uint8, and the norms of what
            they decode to, [n] float64.

        Raises:
            LowlandError: a row is not finite.
        """
        if len(rows) <= ROWS_AT_ONCE:
            return self._encoded(rows)
        parts = [self._encoded(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)]
        codes, row_scale, e, norms = (np.concatenate(part) for part in zip(*parts, strict=True))
        return codes, row_scale, e, norms

    def _encoded(self, rows: Array) -> tuple[Array, Array, Array, Array]:
        """The same, at once."""
        lines = as_lines(rows)
        order, inverse_scale, weights = self._columns
        peaks = peaks_of(lines, order, inverse_scale)
        row_scale = row_scales(peaks, 1, "mixed")
        e, reach, inverses = steps_of(peaks, row_scale, levels=1)
        halves = np.exp2(self.bits - np.float32(1))
        codes = np.zeros((self._regions[-1][2].stop, len(rows)), np.uint8)
        filled, filling = self._filling
        codes[filled] = filling[:, None]
        energies, squares = np.zeros_like(reach), np.zeros(len(rows))
        round_mixed(lines, order, inverse_scale, weights, *self._bytes, halves, inverses, codes, energies)
        add_energies(energies, halves, reach, squares)
        return as_rows(codes), row_scale, e, np.sqrt(squares)

    def decode(self, codes: Array, row_scale: Array, e: Array) -> Array:
        """What `encode` gave, as rows [n, K] float32."""
        rows = np.empty((len(codes), len(self._places)), np.float32)
        for start in range(0, len(codes), ROWS_AT_ONCE):
            own = slice(start, start + ROWS_AT_ONCE)
            self._decoded(codes[own], row_scale[own], e[own], rows[own])
        return rows

    def units(self, codes: Array, out: Array) -> None:
        """(2 c + 1 - 2^b) / 2^b of codes [n, bytes] into [n, blocks, 32] float32, exactly, by falling scale."""
        for bits, blocks, place in self._regions:
            part = unpacked(codes[:, place], bits).reshape(len(codes), blocks.stop - blocks.start, BLOCK)
            np.multiply(part, np.float32(2.0 ** (1 - bits)), out=out[:, blocks])
            out[:, blocks] += np.float32(2.0**-bits - 1)

    def folded(self, vectors: Array) -> Array:
        """Vectors [q, K] times the column scales, in descending order of scale."""
        products: Array = vectors[:, self._order] * self.column_scale[self._order]
        return products

    def _decoded(self, codes: Array, row_scale: Array, e: Array, out: Array) -> None:
        """The same into [n, K], at once."""
        values = np.empty((len(codes), e.shape[1], BLOCK), np.float32)
        self.units(codes, values)
        values *= (row_scale[:, None] * BLOCK_STEPS[e])[:, :, None]
        flat = values.reshape(len(codes), e.shape[1] * BLOCK)
        np.take(flat, self._places, axis=1, out=out, mode="clip")  # "raise" would take into a copy first
        out *= self.column_scale

    def bounds(self, row_scale: Array, e: Array) -> Array:
        """The stated bound on the error of each coordinate, [n, K] float64."""
        reach = row_scale.astype(np.float64)[:, None] * 2.0 ** (-e.astype(np.float64) / 8 - self.bits)
        found = np.empty((len(row_scale), len(self._order)))
        found[:, self._order] = np.repeat(reach, BLOCK, axis=1)[:, : len(self._order)]
        return found * self.column_scale


def unpacked(found: Array, bits: int) -> Array:
    """Codes [n, w] uint8 of so many bits from their bytes, [n, w x bits / 8]."""
    width = found.shape[1] * 8 // bits
    codes = np.empty((len(found), width), np.uint8)
    for number, part in enumerate(_parts(width, bits)):
        np.bitwise_and(found >> np.uint8(number * bits), np.uint8(2**bits - 1), out=codes[:, part])
    return codes


def _parts(width: int, bits: int) -> Iterator[slice]:
    size = width * bits // 8
    yield from (slice(start, start + size) for start in range(0, width, max(size, 1)))
