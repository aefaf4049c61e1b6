"""Dense random signs: codes = R g with R of [K, P] entries +-1 / sqrt(K). The textbook projection, and the dearest.

Inner products are unbiased, with variance (|x|^2 |y|^2 + (x . y)^2 - 2 sum_i x_i^2 y_i^2) / K. The signs are drawn
block by block and kept, as bits, only while they fit `CACHE_BYTES`; beyond, they are drawn again for each batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.projection.base import EntrySketch, Norms, Projection, Shapes, Sketch, size_of
from pipeline.core.projection.identity import Identity
from pipeline.core.projection.streams import stream

BLOCK = 1024  # coordinates whose signs are drawn together
CACHE_BYTES = 2**28


class Rademacher(Projection):
    """Dense random signs; see the module."""

    method = "rademacher"

    def __init__(self, shapes: Shapes, dimension: int, seed: int, cache_bytes: int = CACHE_BYTES) -> None:
        """The signs that a seed stands for, kept as bits up to `cache_bytes`."""
        super().__init__(shapes, dimension)
        self._seed = seed
        self._room = cache_bytes
        self._cache: dict[tuple[str, int], NDArray[np.uint8]] = {}

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """The projection that a seed stands for; where K >= P, the identity, exact, with dimension P."""
        if dimension >= size_of(shapes) > 0:
            return Identity.build(shapes, dimension, seed)
        return cls(shapes, dimension, seed)

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return _RademacherSketch(self, rows, dtype, device)

    def signs(self, name: str, start: int, stop: int) -> Iterator[tuple[int, int, Tensor]]:
        """Signs of the coordinates from `start` to before `stop` of a parameter, a block or a part of one at a time.

        Yields:
            First and last (exclusive) coordinate, and -1 or 1 for each and each of K: int8, [n, K].
        """
        for block in range(start // BLOCK, -(-stop // BLOCK)):
            low, high = max(start, block * BLOCK), min(stop, (block + 1) * BLOCK)
            bits = np.unpackbits(self._bits(name, block)[low - block * BLOCK : high - block * BLOCK], axis=1)
            yield (low, high, torch.from_numpy(2 * bits[:, : self.dimension].view(np.int8) - 1))

    def _bits(self, name: str, block: int) -> NDArray[np.uint8]:
        """The signs of a block as bits, [n, ceil(K / 8)]."""
        if (name, block) in self._cache:
            return self._cache[name, block]
        count, width = (min(BLOCK, prod(self.shapes[name]) - block * BLOCK), -(-self.dimension // 8))
        drawn = stream(self._seed, "rademacher", name, block).bytes(count * width)
        bits = np.frombuffer(drawn, dtype=np.uint8).reshape(count, width)
        if bits.nbytes <= self._room:
            self._room -= bits.nbytes
            self._cache[name, block] = bits
        return bits


class _RademacherSketch(EntrySketch):
    def __init__(self, projection: Rademacher, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__(projection.shapes, rows, device)
        self._projection = projection
        self._sums = torch.zeros(rows, projection.dimension, dtype=dtype, device=device)

    def _add_entries(self, name: str, start: int, entries: Tensor) -> None:
        for low, high, signs in self._projection.signs(name, start, start + entries.shape[1]):
            part = entries[:, low - start : high - start].to(self._sums.dtype)
            self._sums.addmm_(part, signs.to(self._sums))

    def _codes(self) -> Tensor:
        return self._sums / self._projection.dimension**0.5
