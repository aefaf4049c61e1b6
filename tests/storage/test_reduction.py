"""Work over blocks: the plain sum, the same to the bit for any number of workers."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from pipeline.errors import CapacityError, StoreError
from pipeline.storage.reduction import Workers, each, tree, tree_sum
from tests.storage import leaves


def here(threads, memory_bytes=2**30):
    return Workers(threads, memory_bytes)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_the_sum_is_the_plain_sum_for_any_number_of_workers(rng, count):
    values = rng.normal(size=(count, 5, 3)) * 10.0 ** rng.integers(-8, 8, size=(count, 1, 1))
    items = [{"values": v, "seconds": s} for v, s in zip(values, rng.permutation(count) * 0.003, strict=True)]
    totals = [tree_sum(leaves.slow, items, here(threads)) for threads in (1, 2, 4)]
    assert np.array_equal(totals[0], totals[1]) and np.array_equal(totals[0], totals[2])
    np.testing.assert_allclose(totals[0], values.sum(0), rtol=1e-12, atol=1e-12 * np.abs(values).max())


def test_what_is_nested_is_combined_first_and_in_order():
    assert tree(str, "({}{})".format, [[1, 2, 3], [4], [[5, 6], 7]], here(2)) == "((((12)3)4)((56)7))"
    assert tree(str, "({}{})".format, [1, 2, 3, 4, 5], here(2)) == "(((12)(34))5)"


def test_parts_that_return_the_same_are_all_counted():
    one = {"values": np.ones(3)}
    assert tree_sum(leaves.slow, [one, one, one], here(2)).tolist() == [3, 3, 3]


def test_each_part_is_called_once_and_results_stand_in_order():
    calls, ticks = [], []
    found = each(lambda i: calls.append(i) or i * i, [*range(20)], here(3), done=lambda: ticks.append(1))
    assert found == [i * i for i in range(20)] and sorted(calls) == [*range(20)] and len(ticks) == 20


def test_what_is_shared_reaches_every_part():
    assert each(leaves.scaled, [1.0, 2.0], here(2), shared=(3.0,)) == [3.0, 6.0]


def test_an_error_in_a_part_is_raised_as_it_is():
    with pytest.raises(StoreError, match="^expected shard 3$"):
        tree_sum(leaves.missing, ["shard 3", "shard 3"], here(2))


def test_no_more_are_at_work_than_fit_into_the_memory():
    running, most, lock = 0, 0, threading.Lock()

    def part(_):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1
        return 1

    assert tree_sum(part, [*range(12)], here(8, memory_bytes=2 * 10**6), block_bytes=10**6) == 12
    assert most == 2


def test_a_block_that_does_not_fit_is_refused_with_what_it_takes():
    message = "expected compute.memory_mb of at least 3 for a block of the stores, got 2; raise it, or lower "
    with pytest.raises(CapacityError, match=message):
        tree_sum(leaves.slow, [{"values": 1}], here(1, 2 * 10**6), block_bytes=2_000_001)


def test_few_sums_wait_for_others_however_many_there_are():
    alive, most, lock = 0, 0, threading.Lock()

    class Sum:
        def __init__(self):
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __del__(self):
            nonlocal alive
            with lock:
                alive -= 1

    tree(lambda _: Sum(), lambda a, b: Sum(), [*range(256)], here(2))
    assert most <= 2 * 2 + np.log2(256) + 2
