"""Inputs as flat vectors: what a control sees that knows rows as they are, and no model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]


def vectors(rows: RowSet, positions: Iterable[int]) -> Array | None:
    """The inputs of some rows, [n, D] float64; None of no rows, and for inputs that are no tensors of one size."""
    found: list[Array] = []
    for i in positions:
        row = rows.row(int(i))
        value = row[0] if isinstance(row, (tuple, list)) else None
        if not isinstance(value, Tensor) or (found and value.numel() != len(found[0])):
            return None
        found.append(value.detach().double().flatten().numpy())
    return np.stack(found) if found else None
