"""Sums over shards: the plain sum, the same to the bit for any number of workers."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from pipeline.storage.reduction import tree_sum


def slow(values: np.ndarray, seconds: float) -> np.ndarray:
    time.sleep(seconds)
    return values


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_the_sum_is_the_plain_sum_for_any_number_of_workers(rng, count):
    values = rng.normal(size=(count, 5, 3)) * 10.0 ** rng.integers(-8, 8, size=(count, 1, 1))
    delays = rng.permutation(count) * 0.003
    totals = [
        tree_sum([partial(slow, value, delay) for value, delay in zip(values, delays, strict=True)], workers)
        for workers in (1, 2, 4)
    ]
    assert np.array_equal(totals[0], totals[1]) and np.array_equal(totals[0], totals[2])
    np.testing.assert_allclose(totals[0], values.sum(0), rtol=1e-12, atol=1e-12 * np.abs(values).max())


def test_parts_that_return_the_same_are_all_counted():
    ones = partial(np.ones, 3)
    assert tree_sum([ones, ones, ones], workers=2).tolist() == [3, 3, 3]


def test_each_part_is_called_once():
    calls = []

    def part(i):
        calls.append(i)
        return np.array([i])

    assert tree_sum([partial(part, i) for i in range(5)], workers=2) == 10
    assert sorted(calls) == [0, 1, 2, 3, 4]


def test_an_error_in_a_part_is_raised_as_it_is():
    def broken():
        raise KeyError("shard 3")

    with pytest.raises(KeyError, match="shard 3"):
        tree_sum([lambda: np.zeros(1), broken], workers=2)
