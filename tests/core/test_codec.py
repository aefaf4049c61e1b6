"""Codes: what is lost is bounded, no row of any norm is lost, and bf16 is that of torch to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.codec import ENCODINGS, LEVELS, SCALE_FLOOR, Codec, Encoded, fit_codec, from_bf16, to_bf16
from pipeline.core.mixed import Mixed
from pipeline.core.rounding import BLOCK
from pipeline.errors import LowlandError

K = 2 * BLOCK + 6
"""Three blocks, the last one short."""
ROUNDING = LEVELS * 8 * 2.0**-24
"""What the products and quotients of float32 add to half a step, in steps."""

exponents = st.floats(-12, 6)
seeds = st.integers(0, 2**32 - 1)
lossy = st.sampled_from(["int8", "bf16"])


def energies(dimension: int) -> np.ndarray:
    """Standard deviations of coordinates, falling over three decades."""
    return np.geomspace(1, 1e-3, dimension)


def drawn(rng: np.random.Generator, count: int, spread: float = 0.0) -> np.ndarray:
    """Rows of a steep spectrum; `spread` decades between coordinates of a row on top of it."""
    rows = rng.normal(size=(count, K)) * energies(K) * 10.0 ** (spread * rng.normal(size=(count, K)))
    return rows.astype(np.float32)


def of_norm(rows: np.ndarray, norm: float) -> np.ndarray:
    exact = rows.astype(np.float64)
    return (norm * exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)


def half_steps(codec: Codec, stored: Encoded) -> np.ndarray:
    """The stated bound of int8 on the error of each coordinate, [n, K] float64, from what is stored."""
    steps = stored.row_scale.astype(np.float64)[:, None] * 2.0 ** (-stored.block_scale.astype(np.float64) / 8)
    return steps[:, np.arange(K) // BLOCK] * codec.column_scale / 2


def stated_bound(codec: Codec, rows: np.ndarray) -> np.ndarray:
    """The bound of mixed on the error of each coordinate, [n, K] float64, from rows, column scales and widths alone.

    p is at most 2^(1/8) times the largest magnitude of a block over its column scales, but no less than 2^(-255/8) times
    that of the row.
    """
    scale = codec.column_scale.astype(np.float64)
    order = np.argsort(-scale, kind="stable")
    starts = np.arange(0, len(scale), BLOCK)
    peaks = np.maximum.reduceat(np.abs(rows.astype(np.float64) / scale)[:, order], starts, axis=1)
    p = np.maximum(2 ** (1 / 8) * peaks, 2 ** (-255 / 8) * peaks.max(1, keepdims=True))
    steps = np.repeat(p / 2.0 ** Mixed(codec.column_scale).bits, BLOCK, axis=1)[:, : len(scale)]
    found = np.empty(rows.shape)
    found[:, order] = steps
    return found * scale * (1 + 1e-5)  # float32


@pytest.fixture
def rows(rng):
    return drawn(rng, 64)


@given(st.sampled_from(ENCODINGS), exponents, seeds, st.floats(0, 2))
def test_a_row_of_any_norm_is_kept(encoding, exponent, seed, spread):
    rng = np.random.default_rng(seed)
    codec = fit_codec(encoding, drawn(rng, 64))
    rows = of_norm(drawn(rng, 5, spread), 10.0**exponent)
    back, exact = codec.round_trip(rows).astype(np.float64), rows.astype(np.float64)
    norms = np.linalg.norm(rows.astype(np.float64), axis=1)
    assert back.any(1).all()
    most = (0.25 if encoding == "mixed" else 0.03) if spread == 0 else 0.2
    if encoding == "mixed" and spread > 0:  # a row like none of the sample may have its energy where bits are few
        most = np.linalg.norm(stated_bound(codec, rows), axis=1) / norms
    assert (np.linalg.norm(back - exact, axis=1) <= most * norms).all()


@given(lossy, exponents, seeds, st.floats(0, 3))
def test_no_coordinate_changes_its_sign(encoding, exponent, seed, spread):
    rng = np.random.default_rng(seed)
    codec = fit_codec(encoding, drawn(rng, 64))
    rows = of_norm(drawn(rng, 5, spread), 10.0**exponent)
    assert (np.sign(codec.round_trip(rows)) * np.sign(rows) >= 0).all()


@given(exponents, seeds, st.floats(0, 3))
def test_the_error_of_int8_is_at_most_half_a_step(exponent, seed, spread):
    rng = np.random.default_rng(seed)
    codec = fit_codec("int8", drawn(rng, 64))
    rows = of_norm(drawn(rng, 5, spread), 10.0**exponent)
    stored = codec.encode(rows)
    error = np.abs(codec.decode(stored).astype(np.float64) - rows)
    assert stored.codes.dtype == np.int8 and stored.block_scale.dtype == np.uint8
    assert stored.codes.shape == (5, K) and stored.block_scale.shape == (5, 3) and codec.row_bytes == K + 3 + 4
    assert np.abs(stored.codes.astype(int)).max() == LEVELS
    assert (error <= half_steps(codec, stored) * (1 + 2 * ROUNDING)).all()
    assert (half_steps(codec, stored) <= stored.row_scale[:, None].astype(np.float64) * codec.column_scale / 2).all()


@given(seeds, st.floats(0, 1))
def test_a_block_is_rounded_by_its_own_largest_coordinate(seed, spread):
    """No finer step of 2^(1/8) would hold it."""
    rng = np.random.default_rng(seed)
    codec = fit_codec("int8", drawn(rng, 64))
    rows = drawn(rng, 5, spread)
    rows[:, :BLOCK] *= 1e-3
    stored = codec.encode(rows)
    largest = np.abs(rows / codec.column_scale)
    for start in range(0, K, BLOCK):
        steps = (2 * half_steps(codec, stored) / codec.column_scale)[:, start]
        ratio = largest[:, start : start + BLOCK].max(1) / (LEVELS * steps)
        assert (ratio <= 1 + 1e-5).all() and (ratio > 2**-0.125 - 1e-5).all()


@given(exponents, seeds, st.floats(0, 3), st.sampled_from([1, BLOCK, K, 20 * BLOCK + 1]))
def test_the_error_of_mixed_is_within_its_bound(exponent, seed, spread, dimension):
    rng = np.random.default_rng(seed)
    sample = rng.normal(size=(64, dimension)) * energies(dimension)
    rows = of_norm(sample[:5] * 10.0 ** (spread * rng.normal(size=(5, dimension))), 10.0**exponent)
    codec = fit_codec("mixed", sample)
    stored = codec.encode(rows)
    bound = Mixed(codec.column_scale).bounds(stored.row_scale, stored.block_scale)
    assert stored.codes.dtype == np.uint8 and codec.row_bytes == stored.codes.shape[1] + stored.block_scale.shape[1] + 4
    error = np.abs(codec.decode(stored).astype(np.float64) - rows)
    assert (error <= bound * 1.001).all()
    assert (error > 0.5 * bound).any()


@given(exponents, seeds, st.floats(0, 3), st.sampled_from([1, BLOCK, K, 20 * BLOCK + 1]), st.booleans())
def test_mixed_errs_by_no_more_than_is_stated_of_rows_and_columns(exponent, seed, spread, dimension, alike):
    """Whatever is stored beside the codes; `alike`: rows as in the sample, else each coordinate of any size."""
    rng = np.random.default_rng(seed)
    sample = rng.normal(size=(64, dimension)) * rng.permutation(energies(dimension))
    rows = of_norm((sample if alike else rng.normal(size=sample.shape))[:5] * 10.0 ** (
        spread * rng.normal(size=(5, dimension))), 10.0**exponent)  # fmt: skip
    codec = fit_codec("mixed", sample)
    back, bound = codec.round_trip(rows).astype(np.float64), stated_bound(codec, rows)
    assert (np.abs(back - rows) <= bound).all()
    # So what is larger than its bound does not come back as nothing, and below it no row does.
    assert back.any(1).all()


@given(exponents, seeds)
def test_the_largest_of_a_block_keeps_its_size_in_mixed(exponent, seed):
    """Of 2, 4 and 8 bits at least 3/4, 15/16 and 255/256, and no more than 2^(1/8) of it."""
    rng = np.random.default_rng(seed)
    dimension = 20 * BLOCK
    sample = rng.normal(size=(64, dimension)) * energies(dimension)
    codec, rows = fit_codec("mixed", sample), of_norm(sample[:5], 10.0**exponent)
    mixed = Mixed(codec.column_scale)
    order = np.argsort(-codec.column_scale, kind="stable")
    scaled, back = (
        np.abs(each.astype(np.float64) / codec.column_scale)[:, order].reshape(5, -1, BLOCK)
        for each in (rows, codec.round_trip(rows))
    )
    assert set(mixed.bits) == {2, 4, 8}
    at = scaled.argmax(2)[:, :, None]
    kept = np.take_along_axis(back, at, 2)[:, :, 0] / np.take_along_axis(scaled, at, 2)[:, :, 0]
    assert (kept >= (1 - 2.0**-mixed.bits) * (1 - 1e-5)).all() and (kept <= 2 ** (1 / 8) * (1 + 1e-5)).all()


@given(st.sampled_from(["mixed", "int8"]), st.integers(-30, 20), seeds)
def test_a_power_of_two_goes_through_exactly_with_scales(encoding, power, seed):
    rng = np.random.default_rng(seed)
    codec = fit_codec(encoding, drawn(rng, 64))
    rows, factor = drawn(rng, 4), np.float32(2.0**power)
    np.testing.assert_array_equal(codec.round_trip(rows * factor), codec.round_trip(rows) * factor)


@given(lossy, st.integers(-30, 20), st.integers(-1, 1), seeds)
def test_a_power_of_two_goes_through_exactly(encoding, power, sign, seed):
    rng = np.random.default_rng(seed)
    codec = fit_codec(encoding, drawn(rng, 64))
    rows, factor = drawn(rng, 4), np.float32(sign * 2.0**power)
    np.testing.assert_array_equal(codec.round_trip(rows * factor), codec.round_trip(rows) * factor)


@given(exponents, seeds)
def test_any_factor_goes_through_up_to_rounding(exponent, seed):
    rng = np.random.default_rng(seed)
    codec, factor = fit_codec("int8", drawn(rng, 64)), 10.0**exponent
    rows = of_norm(drawn(rng, 4), 1.0)
    larger = (rows * factor).astype(np.float32)
    bound = half_steps(codec, codec.encode(larger)) + factor * half_steps(codec, codec.encode(rows))
    difference = np.abs(codec.round_trip(larger).astype(np.float64) - factor * codec.round_trip(rows))
    assert (difference <= bound * (1 + 2 * ROUNDING)).all()


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_the_error_of_bf16_is_at_most_two_to_the_minus_eight(rows):
    normal = (np.abs(rows) >= np.finfo(np.float32).tiny) & (np.abs(rows) < 3.3e38)
    back = from_bf16(to_bf16(rows))
    assert (np.abs(back.astype(np.float64) - rows)[normal] <= 2.0**-8 * np.abs(rows.astype(np.float64))[normal]).all()


def test_bf16_codes_are_the_rows_rounded(rows):
    codec = fit_codec("bf16", rows)
    np.testing.assert_array_equal(codec.encode(rows).codes, to_bf16(rows))
    assert codec.row_bytes == 2 * K + 4


def bits_of_torch(rows: np.ndarray) -> np.ndarray:
    return torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


@given(hnp.arrays(np.uint32, (64,)))
def test_bf16_is_that_of_torch_to_the_bit(bits):
    rows = bits.view(np.float32)
    number = ~np.isnan(rows)
    assert np.array_equal(to_bf16(rows)[number], bits_of_torch(rows)[number])
    assert np.isnan(from_bf16(to_bf16(rows))[~number]).all()


def test_bf16_rounds_ties_to_even_and_keeps_infinities_and_nan():
    upper = np.arange(0, 2**16, 7, dtype=np.uint32)
    ties = ((upper << 16) | 0x8000).view(np.float32)
    edges = np.array([0.0, -0.0, np.inf, -np.inf, 3.4e38, -3.4e38, 1e-45, -1e-40, 1.00390625, 1.01171875], np.float32)
    for rows in (ties[~np.isnan(ties)], edges, edges[::-1]):
        assert np.array_equal(to_bf16(rows), bits_of_torch(np.ascontiguousarray(rows)))
    odd_nan = np.array([0x7F800001, 0xFF800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(from_bf16(to_bf16(odd_nan))).all()


def test_bf16_decodes_every_code_exactly():
    codes = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    expected = torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(from_bf16(codes), expected)
    number = ~np.isnan(expected)
    assert np.array_equal(to_bf16(from_bf16(codes))[number], codes[number])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_zero_rows_stay_zero_and_disturb_no_other(encoding, rows):
    codec = fit_codec(encoding, rows)
    mixed = rows.copy()
    mixed[[0, 7]] = 0
    stored = codec.encode(mixed)
    back = codec.decode(stored)
    assert not back[[0, 7]].any() and np.isfinite(stored.row_scale).all()
    kept = [i for i in range(len(rows)) if i not in (0, 7)]
    assert np.array_equal(back[kept], codec.round_trip(rows)[kept])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_rows_and_rows_below_all_numbers_are_no_trouble(encoding, rows):
    codec = fit_codec(encoding, rows)
    stored = codec.encode(np.zeros((0, K), np.float32))
    assert len(stored.codes) == 0 and codec.decode(stored).shape == (0, K)
    for size in (1e-44, 1e-38, 1e-36, 1e-33):
        back = codec.round_trip(np.full((2, K), size, np.float32))
        assert np.isfinite(back).all() and np.abs(back).max() <= 12 * size


def test_a_block_far_below_its_row_is_no_trouble_at_the_lowest_norms():
    """No step is so small that its reciprocal overflows."""
    codec = Codec("int8", np.ones(K, np.float32))
    for size in (1e-35, 1e-30, 1e-20):
        rows = np.full((1, K), size, np.float32)
        rows[:, BLOCK:] = 0
        np.testing.assert_allclose(codec.round_trip(rows), rows, rtol=1e-5)


@pytest.mark.parametrize("dimension", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1])
def test_any_number_of_coordinates_will_do(dimension, rng):
    rows = rng.normal(size=(50, dimension)).astype(np.float32)
    for encoding in ENCODINGS:
        codec = fit_codec(encoding, rows)
        within = 0.02 if encoding != "mixed" or dimension <= BLOCK else 1.5  # all but the first block in 2 bits
        np.testing.assert_allclose(codec.round_trip(rows), rows, atol=within)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_code_does_not_depend_on_the_other_rows_of_its_batch(encoding, rows):
    codec = fit_codec(encoding, rows)
    alone = np.concatenate([codec.round_trip(row[None]) for row in rows])
    np.testing.assert_array_equal(alone, codec.round_trip(rows))
    np.testing.assert_array_equal(codec.round_trip(rows.reshape(8, 8, K)), alone.reshape(8, 8, K))


@pytest.mark.parametrize("encoding", ["int8", "bf16", "float32"])
def test_encoding_what_was_decoded_changes_it_no_further(encoding, rows):
    codec = fit_codec(encoding, rows)
    once = codec.round_trip(rows)
    np.testing.assert_allclose(codec.round_trip(once), once, rtol=1e-6)


@pytest.mark.parametrize("encoding", ["bf16", "float32"])
def test_float_encodings_keep_nan_and_infinity(encoding):
    rows = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    np.testing.assert_array_equal(Codec(encoding, np.ones(4, np.float32)).round_trip(rows), rows)


@pytest.mark.parametrize("encoding", ["mixed", "int8"])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_codes_with_scales_refuse_what_they_cannot_keep(rows, wrong, encoding):
    codec = fit_codec(encoding, rows)
    rows[[3, 9], 2] = wrong
    with pytest.raises(
        LowlandError, match=rf"expected finite rows to encode as {encoding}, got others at \[3, 9\]; flag and zero them"
    ):
        codec.encode(rows)


def test_column_scales_are_those_of_rows_of_unit_length(rows):
    codec = fit_codec("int8", rows)
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    scale = np.sqrt((units**2).mean(0))
    np.testing.assert_allclose(codec.column_scale, np.maximum(scale, SCALE_FLOOR * scale.mean()), rtol=1e-6)


def test_a_codec_does_not_depend_on_the_norms_of_rows_or_on_rows_without_a_direction(rows, rng):
    scaled = rows * 10.0 ** rng.integers(-6, 6, size=(len(rows), 1))
    useless = np.array([[value] * K for value in (0.0, np.nan, np.inf)])
    expected, found = fit_codec("int8", rows), fit_codec("int8", np.concatenate([scaled, useless]))
    np.testing.assert_allclose(found.column_scale, expected.column_scale, rtol=1e-4)


def test_a_coordinate_that_the_sample_never_used_is_kept_when_a_row_uses_it(rows):
    rows[:, 4] = 0
    codec = fit_codec("int8", rows)
    row = rows[:1].copy()
    row[0, 4] = np.abs(row).max()
    assert codec.round_trip(row)[0, 4] == pytest.approx(row[0, 4], rel=0.01)
    assert fit_codec("int8", np.zeros((3, K), np.float32)).column_scale.tolist() == [1] * K
