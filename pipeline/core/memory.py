"""What a capture holds in memory: measured on small batches before it is run on large ones.

Within a `Watch`, every tensor storage that an operation makes is counted once, from the operation to the storage's
death; beside it, what numpy and Python allocate (`tracemalloc`). Only sizes are read, never the clock, free memory or
what the system says: the same model and rows give the same plan everywhere, but for kernels that differ in what they
return.

What a process takes from the system is more than it holds, and is what a budget is about. So bytes are counted as
resident ones, by four figures measured on glibc (`python -m benchmarks memory` tells how well they do):

* `HEAP`: blocks up to 32 MiB, once one of their size was freed, come from the heap, which is larger than what is in it,
  by holes as it seems: with every block mapped on its own (MALLOC_MMAP_THRESHOLD_) captures of a CNN and a transformer
  stayed within 3 % of the count, and small ones of an MLP within 13 %, but took up to 45 % more time;
* `MAPPED`: larger blocks are mapped and given back; the heap between them remains;
* `FRESH`: while a job is set up, little has been freed yet, and blocks of all sizes are mapped; those that always are
  take what they hold;
* `WORKSPACES`: what kernels allocate inside and no dispatch sees, as a multiple of their largest tensor: oneDNN's
  copies of images in its own layout, LAPACK's work arrays. The largest is added to the peak, whenever that is.

A `Plan` holds what was measured for batches of 1, 2, 4, ... rows of the largest kind that was found. Between two sizes
it goes straight, beyond the last it goes on as before it: what a batch holds is piecewise linear in its rows. Letters:
B rows of a batch.
"""

from __future__ import annotations

import gc
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.core.compiled import load

HEAP = 1.35
MAPPED = 1.2
FRESH = 1.25
MAPPED_FROM = 2**25  # bytes; glibc's largest dynamic threshold on machines of 64 bits
SLACK = 3 * 2**22
"""Bytes of a plan for what is counted nowhere: buffers of a store's writer, stacks, code that is loaded when used, and
small captures, of which the same one takes 55 MB in one process and 76 in another."""
WORKSPACES: Mapping[Any, float] = {
    torch.ops.aten.convolution: 2.5,
    torch.ops.aten.convolution_backward: 2.5,
    torch.ops.aten._linalg_eigh: 2.0,
    torch.ops.aten._linalg_svd: 3.0,
    torch.ops.aten.linalg_qr: 1.0,
}
MOST_ROWS = 256
"""Rows of the largest batch that is chosen: beyond, nothing gets faster."""


def resident(held_bytes: int) -> float:
    """Bytes that a block of so many takes of the process's resident memory."""
    return held_bytes * (HEAP if held_bytes < MAPPED_FROM else MAPPED)


def fresh(held_bytes: int) -> float:
    """The same while a job is set up."""
    return held_bytes * (FRESH if held_bytes < MAPPED_FROM else 1)


class Watch(TorchDispatchMode):
    """Counts what is held within the context; see the module.

    Attributes:
        level: resident bytes of the tensors that live now and were made within.
    """

    def __init__(self) -> None:
        """Count from nought."""
        super().__init__()
        self.level = 0.0
        self._fresh = 0.0
        self._peak = self._mapped_peak = self._workspace = 0.0
        self._known: dict[int, int] = {}
        self._own_trace = False

    def __enter__(self) -> Watch:
        load()  # machine code is no part of a plan, as all of the interpreter's own
        super().__enter__()
        self._own_trace = not tracemalloc.is_tracing()
        if self._own_trace:
            tracemalloc.start()
        self._before = tracemalloc.get_traced_memory()[0]
        self.restart()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._look()
        if self._own_trace:
            tracemalloc.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run an operation and count what it makes; storages that it is given and that are new here are others'."""
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in given:
            self._count(tensor, 0)
        found = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._count(tensor)
        share = WORKSPACES.get(func.overloadpacket, 0.0)
        if share:
            self._workspace = max(self._workspace, resident(int(share * max(map(_bytes, (*given, *made)), default=0))))
        self._look()
        return found

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: what is never compiled needs no protection from it, for which torch would import its whole compiler."""
        return False

    @property
    def peak(self) -> int:
        """Most resident bytes since the last restart, of tensors and arrays made since the beginning."""
        self._look()
        return int(self._peak + self._workspace)

    @property
    def mapped_peak(self) -> int:
        """The same for a process that has freed little yet, whose blocks are all mapped: while a job is set up."""
        self._look()
        return int(self._mapped_peak + self._workspace)

    def restart(self) -> None:
        """Forget the peak, not what lives."""
        gc.collect(1)  # all of it takes half a second
        self._peak = self._mapped_peak = self._workspace = 0.0
        tracemalloc.reset_peak()
        self._look()

    def _look(self) -> None:
        """Take note of the present, and of the most that arrays took since the last look."""
        if tracemalloc.is_tracing():
            arrays = max(0, tracemalloc.get_traced_memory()[1] - self._before)
            tracemalloc.reset_peak()
            self._peak = max(self._peak, self.level + HEAP * arrays)
            self._mapped_peak = max(self._mapped_peak, self._fresh + FRESH * arrays)

    def _count(self, tensor: Tensor, size: int | None = None) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse and other tensors without a storage of their own
            return
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes() if size is None else size
            self._fresh += fresh(self._known[key])
            self.level += resident(self._known[key])
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._look()  # arrays may have come and gone while it lived
        size = self._known.pop(key, 0)
        self._fresh -= fresh(size)
        self.level -= resident(size)


@dataclass(frozen=True)
class Plan:
    """Projected memory of captures.

    Attributes:
        setup_bytes: most bytes before the first batch: weights, the check against autograd, making the projection.
        between_bytes: bytes held between batches: weights and projection, with what the first batch leaves.
        sizes: B of the batches that were measured, ascending, from 1 on.
        bytes: most bytes with each of them, [sizes], with weights and projection.
    """

    setup_bytes: int
    between_bytes: int
    sizes: tuple[int, ...]
    bytes: tuple[int, ...]

    def held(self, rows: int) -> int:
        """Most bytes of a job that captures batches of B = `rows` rows."""
        return SLACK + max(self.setup_bytes, _between(self.sizes, self.bytes, rows))

    def rows(self, budget_bytes: int, row_bytes: int = 0) -> int | None:
        """B of the largest power of two, up to those measured, whose batches stay within a budget; None: not one row.

        Args:
            budget_bytes: of the job.
            row_bytes: held for each row beside what was measured.
        """
        fitting = [
            rows
            for rows in (2**i for i in range(MOST_ROWS.bit_length()))
            if rows <= self.sizes[-1] and self.held(rows) + rows * row_bytes <= budget_bytes
        ]
        return fitting[-1] if fitting else None


def together(plans: Sequence[Plan], row_bytes: Sequence[int]) -> Plan:
    """The plan of a job that holds several captures and runs them in turn on each batch; of one it is that one.

    What each holds between batches is held all the time, and what a batch takes beyond it by one capture at a time.
    While one is set up, those before it are there. Codes wait until the batch has gone through all captures.

    Args:
        plans: of the captures, in the order in which they are set up.
        row_bytes: of what each has captured of a row, in the same order.
    """
    between = [plan.between_bytes for plan in plans]
    before = [sum(between[:i]) for i in range(len(plans))]
    slack, waiting = (len(plans) - 1) * SLACK, HEAP * (sum(row_bytes) - min(row_bytes))  # each has a writer's buffers
    most = min(plan.sizes[-1] for plan in plans)
    sizes = sorted({size for plan in plans for size in plan.sizes if size <= most})
    own = [max(_between(plan.sizes, plan.bytes, size) - plan.between_bytes for plan in plans) for size in sizes]
    found = [sum(between) + slack + most_own + int(waiting * size) for size, most_own in zip(sizes, own, strict=True)]
    setup = max(held + plan.setup_bytes for held, plan in zip(before, plans, strict=True))
    return Plan(setup + slack, sum(between) + slack, tuple(sizes), tuple(found))


def measure(
    watch: Watch, capture: Callable[[int], object], setup_bytes: int, budget_bytes: int, most: int = MOST_ROWS
) -> Plan:
    """Measure batches of 1, 2, 4, ... rows and of `most`, as long as what came before lets them stay within the budget.

    Args:
        watch: entered before the model was made.
        capture: captures a batch of that many rows, with all that is done with it.
        setup_bytes: the peak of the watch before the first batch.
        budget_bytes: a batch that would exceed it is not tried, but for a single row.
        most: rows of the largest batch.
    """
    capture(1)  # what is made once, at the first batch, stays
    sizes: list[int] = []
    found: list[int] = []
    between = 0
    for rows in powers(most):
        if sizes and _between(sizes, found, rows, watch.level) + SLACK > budget_bytes:
            break
        watch.restart()
        between = max(between, watch.peak)
        capture(rows)
        sizes.append(rows)
        found.append(watch.peak)
    return Plan(setup_bytes, between, tuple(sizes), tuple(found))


def powers(most: int) -> list[int]:
    """1, 2, 4, ... below `most`, and `most`."""
    return [2**i for i in range(most.bit_length()) if 2**i < most] + [most]


class Growing:
    """Sizes of batches that grow from one row on while, by what was measured, twice as many stay within the budget."""

    def __init__(self, watch: Watch, budget_bytes: int, most: int = MOST_ROWS) -> None:
        """Start with one row."""
        self._watch, self._budget, self._most = watch, budget_bytes, most

    def cut(self, positions: Sequence[int]) -> Iterable[list[int]]:
        """Positions in order, in batches; each must have been captured before the next is asked for."""
        start, rows = 0, 1
        while start < len(positions):
            self._watch.restart()
            level = self._watch.peak
            yield list(positions[start : start + rows])
            start += rows
            used = self._watch.peak - level
            if rows < self._most and level + 2 * used + SLACK <= self._budget:
                rows = min(2 * rows, self._most)
            elif level + used + SLACK > self._budget:
                rows = max(1, rows // 2)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _between(sizes: Sequence[int], found: Sequence[int], rows: int, level: float = 0.0) -> int:
    """Straight between measured points; beyond the last along the last two, or from `level` at no rows through one."""
    if len(sizes) == 1:
        return int(level + (found[0] - level) * rows / sizes[0]) if rows > sizes[0] else found[0]
    last = next((i for i, size in enumerate(sizes) if size >= rows), len(sizes) - 1)
    last = max(last, 1)
    (x, y), (x0, y0) = ((sizes[i], found[i]) for i in (last, last - 1))
    return int(y + (y - y0) / (x - x0) * (rows - x)) if rows >= x0 else found[0]
