"""The loops of encoding: over coordinates, and within one over rows, each in one pass through memory.

Rows come as lines [K, n], a coordinate each, in any order of the coordinates; 32 of that order are a block
(`blockscale`). Letters: n rows, K coordinates, b blocks.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from pipeline.core.compiled import compiled

Array = np.ndarray[Any, Any]

BLOCK = 32
MANTISSA = 23
"""Bits of a float32 after the leading one."""
EIGHTHS = tuple(ceil(2 ** (MANTISSA + k / 8)) - 2**MANTISSA for k in range(1, 8))
"""The mantissas from which on a number from 1 to 2 is at least 2^(k/8)."""
BLOCK_STEPS = (2.0 ** (-np.arange(256) / 8)).astype(np.float32)
"""2^(-e/8) for each e."""
TINY = np.finfo(np.float32).tiny
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


@compiled(f"{LINES}, {COLUMNS}, float32, float32, {COLUMNS}, uint8[:, ::1], {LINES}, {LINES}")
def find_steps(
    peaks: Array, row_scale: Array, levels: float, hair: float, table: Array, e: Array, steps: Array, inverses: Array
) -> None:
    """The e of each block, the largest that its largest magnitude allows, and its step, row_scale x 2^(-e/8).

    Args:
        peaks: the largest magnitude of each block, [b, n] float32.
        row_scale: [n] float32.
        levels: what a peak over its step is at most.
        hair: the factor by which it may be more, float32.
        table: `BLOCK_STEPS`, [256] float32.
        e: [b, n] uint8.
        steps: [b, n] float32.
        inverses: 1 / steps, [b, n] float32; zero where the row has no scale, as it is zero whatever its codes are.
    """
    for block in range(len(peaks)):
        peak, exponent, step, inverse = peaks[block], e[block], steps[block], inverses[block]
        for j in range(len(peak)):
            # Infinite for a block of zeros under a scale of 4 or more: its bits stand for 2^128.
            bits = np.float32(max(row_scale[j], TINY) / max(peak[j] / levels, TINY) * hair).view(np.int32)
            eighths = 8 * ((bits >> MANTISSA) - 127)
            for mantissa in EIGHTHS:
                eighths += (bits & (2**MANTISSA - 1)) >= mantissa
            exponent[j] = min(max(eighths, 0), 255)
        for j in range(len(peak)):
            step[j] = row_scale[j] * table[exponent[j]]
            inverse[j] = np.float32(1) / step[j] if step[j] > 0 else np.float32(0)


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
    inverses: Array, codes: Array, energies: Array,
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
        inverses: 1 over the block's reach, [b, n] float32; zero where a row has none.
        codes: [bytes, n] uint8; bits are added.
        energies: of each block, over its squared reach and times 4^(b-1), [b, n] float32; added to.
    """
    for k in range(len(order)):
        block = k // BLOCK
        line, weight, half, shift = lines[order[k]], weights[k], halves[block], shifts[k]
        factor, code, energy = inverses[block], codes[places[k]], energies[block]
        scale, most, middle = inverse_scale[k] * half, half + half - np.float32(1), np.float32(0.5) - half
        for j in range(len(line)):
            # From 0 to 2^b, or a hair out by rounding: towards zero is down, and the largest magnitude is just below.
            integer = np.uint8(min(line[j] * scale * factor[j] + half, most))
            code[j] |= integer * shift
            value = np.float32(integer) + middle
            energy[j] += weight * (value * value)


@compiled(f"{LINES}, {COLUMNS}, {LINES}, float64[::1]")
def add_energies(energies: Array, halves: Array, reach: Array, squares: Array) -> None:
    """Sum what `round_mixed` gave of the blocks of a row.

    Args:
        energies: [b, n] float32.
        halves: [b] float32.
        reach: of each block, [b, n] float32.
        squares: squared norms, [n] float64; added to.
    """
    for block in range(len(energies)):
        energy, length, half = energies[block], reach[block], np.float64(halves[block])
        for j in range(len(squares)):
            squares[j] += energy[j] * (length[j] / half) ** 2
