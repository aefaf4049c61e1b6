"""Signed sums into buckets: coordinate i of a gradient is added, with its sign, to one of K numbers.

On one CPU thread, 128 rows of 400,000 coordinates into 1,024 buckets: `scatter_add_` 34 ms (all of it from the cache a
few outputs at a time), `embedding_bag` over coordinates sorted by bucket 26 ms plus a transposition of 160 ms,
`index_add_` 146 ms, a sparse matrix product 53 to 219 ms. So it is the first. The sign costs nothing: negative
coordinates go to K further buckets, which are subtracted in the end.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.projection.base import EntrySketch, Norms, Projection, Shapes, Sketch


def targets(buckets: NDArray[np.int64], signs: NDArray[np.int8], dimension: int) -> Tensor:
    """Bucket and sign of each coordinate as one number, int32 in [0, 2 K): from K on, the sign is negative."""
    return torch.from_numpy((buckets + dimension * (signs < 0)).astype(np.int32))


class BucketProjection(Projection):
    """A projection made of signed bucket sums, with one or several targets a coordinate."""

    def __init__(self, shapes: Shapes, dimension: int, tables: Mapping[str, list[Tensor]]) -> None:
        """Keep the targets.

        Args:
            shapes: parameter -> shape.
            dimension: K.
            tables: parameter -> s tensors of targets, each of the parameter's size; codes are divided by sqrt(s).
        """
        super().__init__(shapes, dimension)
        self._tables = {torch.device("cpu"): {name: list(table) for name, table in tables.items()}}

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        place = torch.device(device)
        if place not in self._tables:
            here = self._tables[torch.device("cpu")]
            self._tables[place] = {name: [t.to(place) for t in table] for name, table in here.items()}
        return _BucketSketch(self.shapes, rows, self.dimension, self._tables[place], dtype, place)


class _BucketSketch(EntrySketch):
    def __init__(
        self,
        shapes: Shapes,
        rows: int,
        dimension: int,
        tables: Mapping[str, list[Tensor]],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(shapes, rows, device)
        self._tables, self._dimension = tables, dimension
        self._sums = torch.zeros(rows, 2 * dimension, dtype=dtype, device=device)

    def _add_entries(self, name: str, start: int, entries: Tensor) -> None:
        rows, count = entries.shape
        values = entries.to(self._sums.dtype)
        for table in self._tables[name]:
            index = table[start : start + count].long()
            self._sums.scatter_add_(1, index.expand(rows, count), values)

    def _codes(self) -> Tensor:
        copies = len(next(iter(self._tables.values())))
        return (self._sums[:, : self._dimension] - self._sums[:, self._dimension :]) / copies**0.5
