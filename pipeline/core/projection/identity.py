"""No compression: all P coordinates, parameter after parameter. The oracle of all other projections."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pipeline.core.projection.base import EntrySketch, Norms, Projection, Shapes, Sketch, size_of


class Identity(Projection):
    """All P coordinates in the order of the parameters; the dimension asked for is not looked at, K = P."""

    method = "identity"

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Identity:
        """The only one there is."""
        return cls(shapes, size_of(shapes))

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return _IdentitySketch(self.shapes, rows, dtype, device)


class _IdentitySketch(EntrySketch):
    def __init__(self, shapes: Shapes, rows: int, dtype: torch.dtype, device: torch.device | str) -> None:
        super().__init__(shapes, rows, device)
        self._values = torch.zeros(rows, size_of(shapes), dtype=dtype, device=device)
        self._offsets: dict[str, int] = {}
        offset = 0
        for name, shape in shapes.items():
            self._offsets[name] = offset
            offset += prod(shape)

    def _add_entries(self, name: str, start: int, entries: Tensor) -> None:
        first = self._offsets[name] + start
        self._values[:, first : first + entries.shape[1]] = entries

    def _codes(self) -> Tensor:
        return self._values
