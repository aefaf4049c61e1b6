"""Codes: what is lost is bounded, no row of any norm is lost, and bf16 is that of torch to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.core.agreement import recall_at_k
from pipeline.core.codec import ENCODINGS, LEVELS, SCALE_FLOOR, Codec, fit_codec, from_bf16, to_bf16
from pipeline.core.curvature import outer_sum, spectrum_of_sum
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import LowlandError

K = 12


def energies(dimension: int) -> np.ndarray:
    """Standard deviations of coordinates, falling over three decades."""
    return np.geomspace(1, 1e-3, dimension)


@pytest.fixture
def rows(rng):
    return (rng.normal(size=(64, K)) * energies(K)).astype(np.float32)


@given(st.sampled_from(ENCODINGS), st.floats(-12, 6), st.integers(0, 2**32 - 1))
def test_a_row_of_any_norm_is_kept(encoding, exponent, seed):
    rng = np.random.default_rng(seed)
    sample = (rng.normal(size=(64, K)) * energies(K)).astype(np.float32)
    direction = rng.normal(size=K) * energies(K)
    row = (10.0**exponent * direction / np.linalg.norm(direction)).astype(np.float32)[None]
    back = fit_codec(encoding, sample).round_trip(row).astype(np.float64)
    exact = row.astype(np.float64)
    assert np.linalg.norm(back - exact) <= 0.03 * np.linalg.norm(exact)
    assert (back @ exact.T).item() > 0.999 * np.linalg.norm(back) * np.linalg.norm(exact)


@given(st.floats(-12, 6), st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_the_error_of_int8_is_at_most_half_a_step(exponent, seed, spread):
    rng = np.random.default_rng(seed)
    codec = fit_codec("int8", (rng.normal(size=(64, K)) * energies(K)).astype(np.float32))
    rows = (rng.normal(size=(5, K)) * 10.0 ** (exponent + spread * rng.normal(size=(5, K)))).astype(np.float32)
    values, scale = codec.encode(rows)
    step = scale[:, None].astype(np.float64) * codec.column_scale
    error = np.abs(codec.decode(values, scale).astype(np.float64) - rows)
    assert values.dtype == np.int8 and np.abs(values.astype(int)).max() <= LEVELS
    assert (error <= step * (0.5 + LEVELS * 4 * 2.0**-24)).all()  # the rest is rounding of float32 itself


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_the_error_of_bf16_is_at_most_two_to_the_minus_eight(rows):
    normal = (np.abs(rows) >= np.finfo(np.float32).tiny) & (np.abs(rows) < 3.3e38)
    back = from_bf16(to_bf16(rows))
    assert (np.abs(back.astype(np.float64) - rows)[normal] <= 2.0**-8 * np.abs(rows.astype(np.float64))[normal]).all()


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
    smallest_nan = np.array([0x7F800001, 0xFF800001], np.uint32).view(np.float32)
    assert np.isnan(from_bf16(to_bf16(smallest_nan))).all()


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
    values, scale = codec.encode(mixed)
    back = codec.decode(values, scale)
    assert not back[[0, 7]].any() and np.isfinite(scale).all()
    kept = [i for i in range(len(rows)) if i not in (0, 7)]
    assert np.array_equal(back[kept], codec.round_trip(rows)[kept])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_no_rows_and_rows_below_all_numbers_are_no_trouble(encoding, rows):
    codec = fit_codec(encoding, rows)
    assert codec.round_trip(np.zeros((0, K), np.float32)).shape == (0, K)
    assert np.isfinite(codec.round_trip(np.full((2, K), 1e-44, np.float32))).all()


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_code_does_not_depend_on_the_other_rows_of_its_batch(encoding, rows):
    codec = fit_codec(encoding, rows)
    alone = np.concatenate([codec.round_trip(row[None]) for row in rows])
    assert np.array_equal(alone, codec.round_trip(rows))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encoding_what_was_decoded_changes_it_no_further(encoding, rows):
    codec = fit_codec(encoding, rows)
    once = codec.round_trip(rows)
    np.testing.assert_allclose(codec.round_trip(once), once, rtol=1e-6)


@pytest.mark.parametrize("encoding", ["bf16", "float32"])
def test_float_encodings_keep_nan_and_infinity(encoding):
    rows = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    np.testing.assert_array_equal(Codec(encoding, np.ones(4, np.float32)).round_trip(rows), rows)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_it_cannot_keep(rows, wrong):
    codec = fit_codec("int8", rows)
    rows[[3, 9], 2] = wrong
    with pytest.raises(
        LowlandError, match=r"expected finite rows to encode as int8, got others at \[3, 9\]; flag and zero them"
    ):
        codec.encode(rows)


def test_column_scales_are_those_of_rows_of_unit_length(rows):
    codec = fit_codec("int8", rows)
    units = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    scale = np.sqrt((units**2).mean(0))
    np.testing.assert_allclose(codec.column_scale, np.maximum(scale, SCALE_FLOOR * scale.mean()), rtol=1e-6)


def test_column_scales_do_not_depend_on_the_norms_of_rows_or_on_rows_without_a_direction(rows, rng):
    scaled = rows * 10.0 ** rng.integers(-6, 6, size=(len(rows), 1))
    useless = np.array([[0.0] * K, [np.nan] * K, [np.inf] * K])
    expected = fit_codec("int8", rows).column_scale
    np.testing.assert_allclose(fit_codec("int8", np.concatenate([scaled, useless])).column_scale, expected, rtol=1e-5)


def test_a_coordinate_that_the_sample_never_used_is_kept_when_a_row_uses_it(rows):
    rows[:, 4] = 0
    codec = fit_codec("int8", rows)
    row = rows[:1].copy()
    row[0, 4] = np.abs(row).max()
    assert codec.round_trip(row)[0, 4] == pytest.approx(row[0, 4], rel=0.01)
    assert fit_codec("int8", np.zeros((3, K), np.float32)).column_scale.tolist() == [1] * K


def preconditioned_recall(codec_of, damping: float, mix: float) -> float:
    """Recall@10 of u^T g over codes against float32 rows, on eigenvalues over six decades; mean of three draws.

    Args:
        codec_of: rows to a codec.
        damping: relative, as in the configuration.
        mix: how far the eigenvectors are turned away from the coordinates.
    """
    shares = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        dimension = 128
        basis = np.linalg.qr(np.eye(dimension) + mix * rng.normal(size=(dimension, dimension)))[0]
        deviations = np.geomspace(1, 1e-3, dimension)
        train, held = ((rng.normal(size=(n, dimension)) * deviations @ basis.T).astype(np.float32) for n in (2000, 50))
        codes = codec_of(train[:512]).round_trip(train)
        solve = Preconditioner.fit(spectrum_of_sum(outer_sum(train), len(train)), damping).solve
        exact, found = (
            np.argsort(-(solve(held) @ each.T.astype(np.float64)), axis=1)[:, :10] for each in (train, codes)
        )
        shares.append(recall_at_k(found, exact))
    return float(np.mean(shares))


@pytest.mark.parametrize("encoding", ["int8", "bf16"])
@pytest.mark.parametrize(("damping", "mix"), [(0.01, 0.0), (1.0, 0.05)])
def test_neighbours_of_preconditioned_queries_survive_the_codec(encoding, damping, mix):
    assert preconditioned_recall(lambda rows: fit_codec(encoding, rows), damping, mix) >= 0.95


def test_column_scales_are_what_saves_the_coordinates_of_low_energy():
    """Row scales alone lose them, and preconditioning asks for just these."""
    assert preconditioned_recall(lambda rows: Codec("int8", np.ones(rows.shape[1], np.float32)), 0.01, 0.0) < 0.85
