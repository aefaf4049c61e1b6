"""Inputs as flat vectors: what is seen of rows as they are, without a model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]


class Points:
    """The inputs of some rows as points [n, D] float32, read as they are asked for."""

    def __init__(self, rows: RowSet, positions: Array) -> None:
        self._rows, self._positions = rows, positions

    def __len__(self) -> int:
        """How many there are."""
        return len(self._positions)

    def __getitem__(self, which: Any) -> Array:
        """Those at a slice or at positions among them; NaN for a row whose input has another size."""
        chosen = self._positions[which]
        found = np.full((len(chosen), self.width or 0), np.nan, np.float32)
        for place, position in enumerate(chosen):
            value = _input(self._rows, int(position))
            if value is not None and value.numel() == self.width:
                found[place] = value.detach().float().flatten().cpu().numpy()
        return found

    @cached_property
    def width(self) -> int | None:
        """D, by the first row; None: its input is no tensor of real numbers."""
        value = _input(self._rows, int(self._positions[0])) if len(self._positions) else None
        return value.numel() if value is not None and value.is_floating_point() else None


def _input(rows: RowSet, position: int) -> Tensor | None:
    """What comes first in a row, where that is a tensor."""
    row = rows.row(position)
    value = row[0] if isinstance(row, (tuple, list)) else None
    return value if isinstance(value, Tensor) else None


def vectors(rows: RowSet, positions: Iterable[int]) -> Array | None:
    """The inputs of some rows, [n, D] float64; None of no rows, and for inputs that are no tensors of one size."""
    found: list[Array] = []
    for i in positions:
        value = _input(rows, int(i))
        if value is None or (found and value.numel() != len(found[0])):
            return None
        found.append(value.detach().double().flatten().numpy())
    return np.stack(found) if found else None
