"""Some products of two sides and no others: the selected entries of a rotated gradient at one position.

Letters: B rows, r and s directions of the sides, k entries.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.compiled import compiled

Array = NDArray[Any]


def multiply_selected(left: Tensor, right: Tensor, a: Tensor, b: Tensor, out: Tensor) -> None:
    """Write left[a] * right[b], entry by entry.

    Args:
        left: [r, B].
        right: [s, B].
        a: lines of left, [k].
        b: lines of right, [k].
        out: [k, B], contiguous.
    """
    if out.is_cpu:
        _multiply(*(side.contiguous().numpy() for side in (left, right)), a.numpy(), b.numpy(), out.numpy())
    else:
        out.copy_(left.index_select(0, a)).mul_(right.index_select(0, b))


@compiled(
    *(f"{kind}[:, ::1], {kind}[:, ::1], int64[::1], int64[::1], {kind}[:, ::1]" for kind in ("float32", "float64"))
)
def _multiply(left: Array, right: Array, a: Array, b: Array, out: Array) -> None:
    for k in range(len(a)):
        first, second, product = left[a[k]], right[b[k]], out[k]
        for j in range(len(product)):
            product[j] = first[j] * second[j]
