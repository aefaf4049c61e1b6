"""Blocks as they lie in memory: against plain indexing, also where the last block is not full or there are no rows."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.blockscale import as_lines, as_rows, peaks_of, steps_of
from pipeline.core.rounding import BLOCK


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize(("rows", "dimension"), [(5, 96), (5, 97), (1, 31), (0, 40)])
def test_peaks_are_those_of_rows_in_order_without_column_scales(rng, rows, dimension):
    values, order = rng.normal(size=(rows, dimension)).astype(np.float32), rng.permutation(dimension)
    scale = rng.uniform(1, 2, dimension).astype(np.float32)
    found = peaks_of(np.ascontiguousarray(values.T), order, scale)
    count = -(-dimension // BLOCK)
    expected = np.zeros((rows, count * BLOCK), np.float32)
    expected[:, :dimension] = values[:, order] * scale
    np.testing.assert_array_equal(found, np.abs(expected.reshape(rows, count, BLOCK)).max(2).T)


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, -np.nan])
def test_a_number_that_is_not_finite_makes_its_own_rows_peak_not_finite(rng, wrong):
    values = rng.normal(size=(4, 50)).astype(np.float32)
    values[2, 7] = wrong
    peaks = peaks_of(np.ascontiguousarray(values.T), np.arange(50), np.ones(50, np.float32))
    assert np.isfinite(peaks).all(0).tolist() == [True, True, False, True]


def test_rows_that_must_not_be_written_to_have_lines_all_the_same(rng):
    rows = np.asfortranarray(rng.normal(size=(4, 50)).astype(np.float32))
    assert np.shares_memory(as_lines(rows), rows)
    rows.flags.writeable = False
    peaks = peaks_of(as_lines(rows), np.arange(50), np.ones(50, np.float32))
    np.testing.assert_array_equal(peaks[0], np.abs(rows[:, :BLOCK]).max(1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (64, 7), (65, 7), (896, 256)])
def test_lines_turn_into_rows(rng, shape):
    lines = rng.integers(0, 256, shape, dtype=np.uint8)
    found = as_rows(lines)
    np.testing.assert_array_equal(found, lines.T)
    assert found.flags.c_contiguous


def test_the_reciprocal_of_no_step_is_zero():
    e, steps, inverses = steps_of(np.array([[0, 4], [0, 2]], np.float32), np.array([0, 4], np.float32), levels=1)
    np.testing.assert_array_equal(e, [[0, 0], [0, 8]])
    np.testing.assert_array_equal(steps, [[0, 4], [0, 2]])
    np.testing.assert_array_equal(inverses, [[0, 0.25], [0, 0.5]])


@pytest.mark.parametrize(("levels", "hair"), [(1, 1.0), (127, 1.00001)])
def test_a_step_is_the_smallest_that_a_peak_allows(rng, levels, hair):
    """And no smaller than the table goes: the row's scale over 2^(255/8)."""
    largest = np.float32(10.0 ** rng.uniform(-20, 30, 200))
    peaks = largest * np.float32(10.0 ** rng.uniform(-12, 0, (500, 200)))
    peaks[:100] = largest * 2.0 ** -(rng.integers(0, 256, (100, 200)) / 8)  # on a step, or next to it
    row_scale = (largest / levels).astype(np.float32)
    e, steps, inverses = steps_of(peaks, row_scale, levels, hair)
    e, rounding = e.T.astype(int), 1 + 3e-7
    reach = row_scale.astype(np.float64) * 2.0 ** (-e / 8)
    assert (peaks <= levels * reach * hair * rounding).all()
    assert (peaks * rounding >= levels * reach * 2 ** (-1 / 8) * hair)[e < 255].all() and e.max() == 255
    np.testing.assert_allclose(steps, reach, rtol=2e-7)
    np.testing.assert_allclose(inverses, 1 / reach, rtol=3e-7)


def test_a_block_of_zeros_has_the_smallest_step_whatever_the_rows_scale():
    row_scale = np.float32([1e-37, 1, 3e38])
    e, steps, inverses = steps_of(np.zeros((1, 3), np.float32), row_scale, levels=1)
    assert e[1:].tolist() == [[255], [255]] and (steps > 0).all() and np.isfinite(inverses).all()


def test_a_block_just_on_a_step_has_it_and_one_a_hair_above_has_not():
    exact = 2.0 ** (np.arange(1, 40) / 8)
    above = np.float32(exact)
    above = np.where(above < exact, np.nextafter(above, np.float32(np.inf)), above)
    ones = np.ones((1, len(above)), np.float32)
    assert steps_of(ones, above, levels=1)[0][:, 0].tolist() == list(range(1, 40))
    below = np.nextafter(above, np.float32(0))
    assert steps_of(ones, below, levels=1)[0][:, 0].tolist() == list(range(39))
