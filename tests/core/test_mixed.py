"""Codes of 8, 4 and 2 bits: who gets how many, and that packing loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.codec import fit_codec
from pipeline.core.mixed import AVERAGE_BITS, NOISE, ROWS, ROWS_AT_ONCE, Mixed, block_bits, unpacked
from pipeline.core.rounding import BLOCK, round_mixed


def falling(dimension: int, power: float) -> np.ndarray:
    return np.arange(1.0, dimension + 1) ** -power


@given(st.integers(2, 300), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_bits_never_rise_and_what_there_is_to_spend_is_spent(blocks, power, seed):
    scale = np.random.default_rng(seed).permutation(falling(blocks * BLOCK, power))
    bits = block_bits(scale)
    assert set(bits) <= {2, 4, 8} and bits[0] == 8 and (np.diff(bits) <= 0).all()
    assert bits.sum() <= max(AVERAGE_BITS * blocks, 8 + 2 * (blocks - 1))
    assert bits.sum() > AVERAGE_BITS * blocks - 5


@pytest.mark.parametrize("power", [0.3, 0.6, 1.0])
def test_no_other_two_widths_lose_less(power):
    """Against all (n8, n4, n2) of the same cost, by the sum of worth times noise that the module states."""
    blocks = 40
    scale = falling(blocks * BLOCK, power)
    share = np.square(scale).reshape(blocks, BLOCK).mean(1) / np.square(scale).sum()
    worth = np.square(share / (share + 1 / ROWS))

    def lost(bits: np.ndarray) -> float:
        return float(sum(w * NOISE[int(b)] for w, b in zip(worth, bits, strict=True)))

    others = (
        np.repeat([8, 4, 2], [eight, four, blocks - eight - four])
        for eight in range(1, blocks + 1)
        for four in range(blocks - eight + 1)
    )
    best = min(lost(bits) for bits in others if bits.sum() <= AVERAGE_BITS * blocks)
    assert lost(block_bits(scale)) <= 1.1 * best


def test_a_steep_spectrum_gets_more_bits_in_front():
    flat, steep = (block_bits(falling(64 * BLOCK, power)) for power in (0.1, 1.0))
    assert (flat == 8).sum() < (steep == 8).sum()
    assert (flat == 4).sum() > (steep == 4).sum()


def integers_of(mixed: Mixed, codes: np.ndarray) -> np.ndarray:
    """The integer of each coordinate in descending order of scale, [n, 32 b], those that fill up the last block too."""
    found, start = [], 0
    for bits in (8, 4, 2):
        size = int((mixed.bits == bits).sum()) * BLOCK * bits // 8
        found.append(unpacked(codes[:, start : start + size], bits))
        start += size
    assert start == codes.shape[1]
    return np.concatenate(found, axis=1)


@given(st.integers(1, 300), st.integers(0, 4), st.floats(0, 2), st.integers(0, 2**32 - 1))
def test_codes_are_what_the_formula_says_of_each_coordinate(dimension, rows, power, seed):
    """c = floor((x / (p x column_scale) + 1) 2^(b-1)), and no more than 2^b - 1, in float64; zeros fill up."""
    rng = np.random.default_rng(seed)
    mixed = Mixed(rng.permutation(falling(dimension, power)).astype(np.float32))
    values = (rng.normal(size=(rows, dimension)) * mixed.column_scale).astype(np.float32)
    codes, row_scale, e, _ = mixed.encode(values)
    order = np.argsort(-mixed.column_scale, kind="stable")
    bits = np.repeat(mixed.bits, BLOCK).astype(np.int64)
    reach = np.repeat(row_scale[:, None] * 2.0 ** (-e.astype(np.float64) / 8), BLOCK, axis=1)
    shares = np.zeros((rows, len(bits)))
    shares[:, :dimension] = (values / mixed.column_scale)[:, order] / reach[:, :dimension]
    exact = np.minimum((shares + 1) * 2.0 ** (bits - 1), 2.0**bits - 1)
    found = integers_of(mixed, codes)
    close = np.abs(exact - np.rint(exact)) < 1e-3  # rounding decides which side of an integer they are on
    np.testing.assert_array_equal(found[~close], np.floor(exact)[~close])
    assert (np.abs(found - exact)[close] < 1 + 1e-3).all()
    assert (found[:, dimension:] == 2 ** (bits[dimension:] - 1)).all()


def test_a_quarter_of_the_bytes_of_float_keeps_far_more_than_the_same_bytes_of_fewer_coordinates(rng):
    """A spectrum that falls slowly: mixed codes of K = 512 against int8 codes of the 232 that fit into the same bytes."""
    rows = (rng.normal(size=(400, 512)) * falling(512, 0.5)).astype(np.float32)
    mixed, few = fit_codec("mixed", rows), fit_codec("int8", rows[:, :232])
    assert mixed.row_bytes <= few.row_bytes + 2
    lost = np.square(mixed.round_trip(rows) - rows).sum()
    lost_of_few = np.square(few.round_trip(rows[:, :232]) - rows[:, :232]).sum() + np.square(rows[:, 232:]).sum()
    assert lost < 0.5 * lost_of_few


@pytest.mark.parametrize("encoding", ["mixed", "int8", "bf16", "float32"])
def test_norms_are_those_of_what_is_decoded_in_either_order_of_memory(rng, encoding):
    """Over norms that float32 could not square, and more rows than are encoded at a time."""
    rows = rng.normal(size=(ROWS_AT_ONCE + 3, 100)) * falling(100, 0.7) * 10.0 ** rng.uniform(-30, 15, (259, 1))
    codec = fit_codec(encoding, rows)
    stored, norms = codec.encode_with_norms(rows)
    decoded = codec.decode(stored).astype(np.float64)
    np.testing.assert_allclose(norms, np.linalg.norm(decoded, axis=1), rtol=1e-6)
    other = codec.encode(np.asfortranarray(rows))
    for one, two in zip(stored, other, strict=True):
        np.testing.assert_array_equal(one, two)
    one_by_one = [codec.encode(row[None]).codes[0] for row in rows[-5:]]
    np.testing.assert_array_equal(stored.codes[-5:], one_by_one)


@pytest.mark.parametrize("encoding", ["mixed", "int8"])
def test_a_block_of_zeros_in_a_row_of_large_numbers_stays_negligible(rng, encoding):
    rows = (rng.normal(size=(20, 256)) * 1e4).astype(np.float32)
    rows[:, :64] = 0
    decoded = fit_codec(encoding, rows).round_trip(rows)
    assert np.abs(decoded[:, :64]).max() <= 1e-6 * np.abs(decoded).max()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_edge_of_a_block_counts_as_just_below_and_a_hair_below_zero_as_zero(bits):
    half, top = np.float32(2 ** (bits - 1)), 2**bits - 1
    hairs = np.nextafter([-half, half], [-np.inf, np.inf], dtype=np.float32)
    values = np.array([hairs[0], -half, 0.75 - half, 1 - half, half - 1.5, half - 1, half, hairs[1]], np.float32)
    one, codes = np.ones(1, np.float32), np.zeros((1, len(values)), np.uint8)
    inverses, energies = np.ones((1, len(values)), np.float32), np.zeros((1, len(values)), np.float32)
    first = np.zeros(1, np.int64)
    round_mixed(
        values[None] / half, first, one, one, first, np.ones(1, np.uint8), one * half, inverses, codes, energies
    )
    assert codes[0].tolist() == [0, 0, 0, 1, top - 1, top, top, top]
    np.testing.assert_array_equal(energies[0], (codes[0] + np.float32(0.5) - half) ** 2)
