"""Sums over shards, out of core and in parallel. The only module that knows dask."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from typing import Any

import dask
import numpy as np

Array = np.ndarray[Any, Any]


def tree_sum(parts: Sequence[Callable[[], Array]], workers: int) -> Array:
    """The sum of what `parts` return, added pairwise in a fixed order; at most `workers` run at a time."""
    sums: list[Any] = [dask.delayed(part, pure=False)() for part in parts]
    while len(sums) > 1:
        pairs = [dask.delayed(add)(a, b) for a, b in zip(sums[::2], sums[1::2], strict=False)]
        sums = pairs + sums[len(pairs) * 2 :]
    total: Array = dask.compute(sums[0], scheduler="threads", num_workers=workers)[0]
    return total
