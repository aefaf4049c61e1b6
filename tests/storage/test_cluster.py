"""Work over blocks on a dask.distributed cluster: the same bits as on threads, also when workers are killed."""

from __future__ import annotations

import os
import signal
import threading
import time

import numpy as np
import pytest

from pipeline.errors import CapacityError, ConfigError, StoreError
from pipeline.storage.reduction import Workers, each, tree_sum
from tests.storage import leaves

distributed = pytest.importorskip("distributed")


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes under nannies, which start a new one for each that dies."""
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as started:
        yield started


def on(cluster):
    return Workers(1, 2**30, cluster.scheduler_address)


def items(rng, count, **more):
    values = rng.normal(size=(count, 50)) * 10.0 ** rng.integers(-8, 8, size=(count, 1))
    return [{"name": i, "values": row, **more} for i, row in enumerate(values)]


def test_a_cluster_gives_the_bits_that_threads_give(cluster, rng):
    work = items(rng, 21)
    nested = [work[:5], work[5:], [work[0], [work[1], work[2]]]]
    assert np.array_equal(tree_sum(leaves.slow, nested, on(cluster)), tree_sum(leaves.slow, nested, Workers(2, 2**30)))
    assert each(leaves.scaled, [1.0, 2.0, 5.0], on(cluster), shared=(3.0,)) == [3.0, 6.0, 15.0]


def test_a_worker_that_is_killed_in_a_reduction_is_survived_and_nothing_counts_twice(cluster, rng, tmp_path):
    work = items(rng, 24, seconds=0.15, begun=str(tmp_path))
    expected = tree_sum(leaves.slow, [{"values": item["values"]} for item in work], Workers(1, 2**30))
    shot = []

    def shoot():
        while len(shot) < 2:  # once in its middle, once more near its end
            begun = {path.name.split("-")[0] for path in tmp_path.iterdir()}
            if len(begun) >= (6, 18)[len(shot)]:
                busy = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
                os.kill(int(busy.name.split("-")[1]), signal.SIGKILL)
                shot.append(busy)
            time.sleep(0.01)

    hunter = threading.Thread(target=shoot)
    hunter.start()
    found = tree_sum(leaves.slow, work, on(cluster))
    hunter.join()
    assert len([*tmp_path.iterdir()]) > len(work)  # something was computed again
    assert np.array_equal(found, expected)


def test_an_error_in_a_part_is_raised_as_it_is(cluster):
    with pytest.raises(StoreError, match="^expected shard 3$"):
        each(leaves.missing, ["shard 3"], on(cluster))


def test_a_block_that_kills_every_worker_is_said(cluster):
    with pytest.raises(
        CapacityError, match="expected dask workers that live through a block of the stores, got several"
    ):
        each(leaves.deadly, [{}], on(cluster))


def test_an_address_where_nobody_answers_is_said(monkeypatch):
    monkeypatch.setattr("pipeline.storage.reduction.CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense"):
        with pytest.raises(ConfigError, match=f"expected a dask scheduler at {address}, got none that answers"):
            each(leaves.scaled, [1.0], Workers(1, 1, address), shared=(1.0,))


def test_a_cluster_without_workers_is_said(monkeypatch):
    monkeypatch.setattr("pipeline.storage.reduction.CONNECT_S", 1)
    message = "expected workers in the dask cluster at .*, got none within 1 s; start `dask worker "
    with (
        distributed.LocalCluster(n_workers=0, dashboard_address=":0") as empty,
        pytest.raises(ConfigError, match=message),
    ):
        each(leaves.scaled, [1.0], on(empty), shared=(1.0,))
