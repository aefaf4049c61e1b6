"""The loops of encoding: over coordinates, and within one over rows, each in one pass through memory.

Rows come as lines [K, n], a coordinate each, in any order of the coordinates; 32 of that order are a block
(`blockscale`). Letters: n rows, K coordinates, b blocks.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.compiled import compiled

Array = np.ndarray[Any, Any]

BLOCK = 32
LINES, COLUMNS, ORDER = "float32[:, ::1]", "float32[::1]", "int64[::1]"


@compiled(f"{LINES}, {ORDER}, {COLUMNS}, int32[:, ::1]")
def find_peaks(lines: Array, order: Array, inverse_scale: Array, peaks: Array) -> None:
    """The bits of the largest magnitude of each block, after division by the column scales.

    Bits of numbers without a sign are ordered as the numbers are, and those of infinity and NaN come last.

    Args:
        lines: [K, n] float32.
        order: which line each coordinate of the blocks is, [K].
        inverse_scale: of each coordinate in that order, [K] float32.
        peaks: [b, n] int32, zeros.
    """
    for k in range(len(order)):
        line, scale, peak = lines[order[k]], inverse_scale[k], peaks[k // BLOCK]
        for j in range(len(line)):
            peak[j] = max(peak[j], np.float32(abs(line[j] * scale)).view(np.int32))


@compiled(f"{LINES}, {COLUMNS}, {LINES}, int8[:, ::1]")
def round_int8(lines: Array, inverse_scale: Array, inverse_step: Array, codes: Array) -> None:
    """Lines as the nearest multiples of their scale and step, halves to even.

    Args:
        lines: [K, n] float32.
        inverse_scale: [K] float32.
        inverse_step: of each block and row, [b, n] float32.
        codes: [K, n] int8.
    """
    for k in range(len(lines)):
        line, scale, step, code = lines[k], inverse_scale[k], inverse_step[k // BLOCK], codes[k]
        for j in range(len(line)):
            code[j] = np.int8(np.rint(line[j] * scale * step[j]))


@compiled(f"{LINES}, {ORDER}, {COLUMNS}, {COLUMNS}, {ORDER}, uint8[::1], {COLUMNS}, {LINES}, uint8[:, ::1], {LINES}")
def round_mixed(
    lines: Array, order: Array, inverse_scale: Array, weights: Array, places: Array, shifts: Array, halves: Array,
    factors: Array, codes: Array, energies: Array,
) -> None:  # fmt: skip
    """Lines as codes of few bits, several in a byte, and the energy of what they decode to.

    Args:
        lines: [K, n] float32.
        order: which line each coordinate of the blocks is, [K].
        inverse_scale: of each coordinate in that order, [K] float32.
        weights: squared column scales in that order, [K] float32.
        places: which byte of a row the code goes into, [K].
        shifts: 2^s, where s is its first bit there, [K] uint8.
        halves: 2^(b-1) of each block of b bits, [b] float32.
        factors: 2^(b-1) over the block's reach, [b, n] float32; zero where a row has none.
        codes: [bytes, n] uint8; bits are added.
        energies: of each block, over its squared reach and times 4^(b-1), [b, n] float32; added to.
    """
    for k in range(len(order)):
        block = k // BLOCK
        line, scale, weight, half, shift = lines[order[k]], inverse_scale[k], weights[k], halves[block], shifts[k]
        factor, code, energy = factors[block], codes[places[k]], energies[block]
        most, middle = half + half - np.float32(1), np.float32(0.5) - half
        for j in range(len(line)):
            # From 0 to 2^b, or a hair out by rounding: towards zero is down, and the largest magnitude is just below.
            integer = np.uint8(min(line[j] * scale * factor[j] + half, most))
            code[j] |= integer * shift
            value = np.float32(integer) + middle
            energy[j] += weight * (value * value)
