"""Work over blocks of the stores, out of core: on threads, or on a dask.distributed cluster. The only module with dask.

A result does not depend on where it was computed, nor by how many: what the caller's blocks give is combined pairwise
in a tree of fixed shape, and BLAS has one thread in every worker. A block is a pure function of files: one that was
lost with its worker is computed again and takes its place in the tree, so that nothing counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from operator import add
from threading import Lock
from typing import Any

import dask
from threadpoolctl import threadpool_limits

from pipeline.errors import CapacityError, ConfigError

CONNECT_S = 20
"""How long a scheduler may take to answer, and its first worker to be there."""
MB = 10**6

Nested = Sequence[Any]
"""Items, or lists of such: what is combined first is nested deepest."""


@dataclass(frozen=True)
class Workers:
    """Where blocks are computed.

    Attributes:
        threads: how many at a time in this process, where there is no address.
        memory_bytes: what they may take together; on a cluster, what each of its threads may take.
        address: of the scheduler of a running dask.distributed cluster, such as tcp://10.0.0.1:8786.
    """

    threads: int
    memory_bytes: int
    address: str | None = None

    def at_once(self, block_bytes: int, held_bytes: int = 0) -> int:
        """How many blocks fit at a time, each taking `block_bytes`, beside `held_bytes` in all.

        Raises:
            CapacityError: not one.
        """
        fitting = (self.memory_bytes - held_bytes) // block_bytes
        if fitting < 1:
            needed, given = -(-(block_bytes + held_bytes) // MB), self.memory_bytes // MB
            raise CapacityError(
                f"expected compute.memory_mb of at least {needed} for a block of the stores, got {given}; raise it, or "
                "lower projection.dimension"
            )
        return min(self.threads, fitting)


def tree(leaf: Callable[..., Any], combine: Callable[[Any, Any], Any], items: Nested, workers: Workers,
         shared: Sequence[Any] = (), block_bytes: int = 1, done: Callable[[], None] = lambda: None) -> Any:  # fmt: skip
    """What `leaf(item, *shared)` gives for all items, combined pairwise in an order that only their nesting decides.

    Args:
        leaf: for a cluster, a function that can be pickled.
        combine: of two results; it need not commute.
        items: at least one, nested or not; for a cluster, such as can be pickled.
        workers: where.
        shared: what every leaf needs; sent to a cluster once.
        block_bytes: what a leaf takes while it runs, and its result.
        done: called after each leaf, on threads only.
    """
    calls = _Calls(_leaf(leaf, workers, done), shared)
    return _compute([_combined(calls, dask.delayed(combine, pure=False), items)], workers, block_bytes)[0]


def tree_sum(leaf: Callable[..., Any], items: Nested, workers: Workers, shared: Sequence[Any] = (),
             block_bytes: int = 1) -> Any:  # fmt: skip
    """The sum of what `leaf` gives; arguments as in `tree`."""
    return tree(leaf, add, items, workers, shared, block_bytes)


def each(leaf: Callable[..., Any], items: Sequence[Any], workers: Workers, shared: Sequence[Any] = (),
         block_bytes: int = 1, done: Callable[[], None] = lambda: None) -> list[Any]:  # fmt: skip
    """What `leaf(item, *shared)` gives for each item, in their order; arguments as in `tree`."""
    calls = _Calls(_leaf(leaf, workers, done), shared)
    return list(_compute([calls(item) for item in items], workers, block_bytes))


class _Calls:
    """Delayed calls of a leaf. Items go in as they are: dask would look for its own collections within them."""

    def __init__(self, leaf: Callable[..., Any], shared: Sequence[Any]) -> None:
        self._leaf = leaf
        self._shared = [dask.delayed(value, pure=False, traverse=False) for value in shared]

    def __call__(self, item: Any) -> Any:
        return dask.delayed(partial(self._leaf, item), pure=False, traverse=False)(*self._shared)


def _combined(calls: _Calls, combine: Any, items: Nested) -> Any:
    level = [_combined(calls, combine, item) if isinstance(item, list) else calls(item) for item in items]
    while len(level) > 1:
        pairs = [combine(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def _leaf(leaf: Callable[..., Any], workers: Workers, done: Callable[[], None]) -> Callable[..., Any]:
    return partial(_alone, leaf) if workers.address else partial(_counted, leaf, done, Lock())


def _counted(leaf: Callable[..., Any], done: Callable[[], None], lock: Any, item: Any, *shared: Any) -> Any:
    value = leaf(item, *shared)
    with lock:
        done()
    return value


def _alone(leaf: Callable[..., Any], item: Any, *shared: Any) -> Any:
    _one_blas_thread()
    return leaf(item, *shared)


@cache
def _one_blas_thread() -> None:
    """For the rest of a cluster's worker process: its threads are many already, and sums must not depend on them."""
    threadpool_limits(1)


def _compute(delayed: list[Any], workers: Workers, block_bytes: int) -> Any:
    if workers.address:
        return _on_cluster(delayed, workers.address)
    count = workers.at_once(block_bytes)
    with threadpool_limits(1):
        return dask.compute(*delayed, scheduler="threads", num_workers=count)


def _on_cluster(delayed: list[Any], address: str) -> Any:
    with _client(address) as client:
        from distributed.scheduler import KilledWorker

        try:
            return client.gather(client.compute(delayed))
        except KilledWorker as error:
            raise CapacityError(
                "expected dask workers that live through a block of the stores, got several that died one after the "
                f"other on the same one, the last at {error.last_worker.address}; their logs say why: mostly memory"
            ) from error
        except ImportError as error:
            raise ConfigError(
                f"expected lowland where the dask scheduler and workers run, got: {error}; start them from this "
                "environment"
            ) from error


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """A client of a cluster that has a worker.

    Raises:
        ConfigError: distributed is not installed, nobody answers at the address, or there is no worker.
    """
    try:
        import distributed
    except ImportError as error:
        raise ConfigError(
            "expected the package distributed for --dask, got none; pip install 'lowland[dask]'"
        ) from error
    # What is shared, such as a preconditioner of 8 K^2 bytes, travels in the graph: scattered, it could be lost.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "4GB"}):
        try:
            client = distributed.Client(address, timeout=CONNECT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"expected a dask scheduler at {address}, got none that answers; start `dask scheduler` and "
                "`dask worker`, or leave out --dask"
            ) from error
        with client:
            try:
                client.wait_for_workers(1, timeout=CONNECT_S)
            except TimeoutError as error:
                raise ConfigError(
                    f"expected workers in the dask cluster at {address}, got none within {CONNECT_S} s; start "
                    f"`dask worker {address}`"
                ) from error
            yield client
