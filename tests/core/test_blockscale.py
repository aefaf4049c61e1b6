"""Blocks as they lie in memory: against plain indexing, also where the last block is not full or there are no rows."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.blockscale import BLOCK, as_lines, as_rows, peaks_of, reciprocal, steps_of


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
    np.testing.assert_array_equal(found, np.abs(expected.reshape(rows, count, BLOCK)).max(2))


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, np.nan, -np.nan])
def test_a_number_that_is_not_finite_makes_its_own_rows_peak_not_finite(rng, wrong):
    values = rng.normal(size=(4, 50)).astype(np.float32)
    values[2, 7] = wrong
    peaks = peaks_of(np.ascontiguousarray(values.T), np.arange(50), np.ones(50, np.float32))
    assert np.isfinite(peaks).all(1).tolist() == [True, True, False, True]


def test_rows_that_must_not_be_written_to_have_lines_all_the_same(rng):
    rows = np.asfortranarray(rng.normal(size=(4, 50)).astype(np.float32))
    assert np.shares_memory(as_lines(rows), rows)
    rows.flags.writeable = False
    peaks = peaks_of(as_lines(rows), np.arange(50), np.ones(50, np.float32))
    np.testing.assert_array_equal(peaks[:, 0], np.abs(rows[:, :BLOCK]).max(1))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (64, 7), (65, 7), (896, 256)])
def test_lines_turn_into_rows(rng, shape):
    lines = rng.integers(0, 256, shape, dtype=np.uint8)
    found = as_rows(lines)
    np.testing.assert_array_equal(found, lines.T)
    assert found.flags.c_contiguous


def test_the_reciprocal_of_no_step_is_zero():
    steps = steps_of(np.array([0, 4], np.float32), np.array([[0, 8], [0, 8]], np.uint8))
    np.testing.assert_array_equal(steps, [[0, 4], [0, 2]])
    np.testing.assert_array_equal(reciprocal(steps), [[0, 0.25], [0, 0.5]])
