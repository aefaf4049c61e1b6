"""Variances of inner products under random projections, from sums over how four entries' rows and columns pair up.

A sketch's inner product squared is a sum over entries u, v, w, z of X_u Y_v X_w Y_z times an expectation, which is zero
unless on each side their four indices are equal in pairs: u = v and w = z (`a`), u = w and v = z (`b`), u = z and v = w
(`c`), or all four (`e`, which is part of each of them).
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor


def pairings(x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The sum of X_u Y_v X_w Y_z over each pairing of rows and of columns, [B] each, of X and Y [B, O, I]."""
    by_rows, by_columns = torch.einsum("nab,ncb->nac", x, y), torch.einsum("nab,nac->nbc", x, y)
    square, product = x.square().sum((1, 2)) * y.square().sum((1, 2)), (x * y).sum((1, 2)).square()
    crossed_rows, crossed_columns = by_rows.square().sum((1, 2)), by_columns.square().sum((1, 2))
    rows, columns = (x * y).sum(2).square().sum(1), (x * y).sum(1).square().sum(1)
    row_squares = (x.square().sum(2) * y.square().sum(2)).sum(1)
    column_squares = (x.square().sum(1) * y.square().sum(1)).sum(1)
    return {
        "aa": product, "ab": crossed_columns, "ac": (by_columns * by_columns.mT).sum((1, 2)), "ae": columns,
        "ba": crossed_rows, "bb": square, "bc": crossed_rows, "be": column_squares,
        "ca": (by_rows * by_rows.mT).sum((1, 2)), "cb": crossed_columns, "cc": product, "ce": columns,
        "ea": rows, "eb": row_squares, "ec": rows, "ee": (x * y).square().sum((1, 2)),
    }  # fmt: skip


def without_all(sums: dict[str, Tensor], first: str, second: str) -> Tensor:
    """The sum over a pairing of rows and one of columns, but `e` of neither (`a` is taken whole)."""
    found = sums[first + second]
    if first != "a":
        found = found - sums["e" + second]
    if second != "a":
        found = found - sums[first + "e"]
    return found + sums["ee"] if "a" not in (first, second) else found


def tensor_variance(x: Tensor, y: Tensor, size: int) -> Tensor:
    """Tensor sketch of one matrix: differences of buckets meet with probability 1 / K, or gcd(2, K) / K^2."""
    sums = pairings(x, y)
    once = ("ab", "ac", "ba", "ca", "bb", "cc")
    twice = without_all(sums, "b", "c") + without_all(sums, "c", "b")
    return sum(without_all(sums, *pair) for pair in once) / size + twice * gcd(2, size) / size**2


def kronecker_variance(x: Tensor, y: Tensor, rows: float, columns: float) -> Tensor:
    """Random signs on both sides of one matrix, r_o = `rows` and r_i = `columns` (infinity: the side is left)."""
    sums = pairings(x, y)
    found = (without_all(sums, "a", "b") + without_all(sums, "a", "c")) / columns
    found = found + (without_all(sums, "b", "a") + without_all(sums, "c", "a")) / rows
    both = sum(without_all(sums, *pair) for pair in ("bb", "bc", "cb", "cc"))
    return found + both / (rows * columns)


def entry_variance(x: Tensor, y: Tensor, share: float) -> Tensor:
    """Signed sums of entries that meet with probability `share`: of X and Y [B, P]."""
    together = x.square().sum(1) * y.square().sum(1) + (x * y).sum(1).square() - 2 * (x * y).square().sum(1)
    return share * together


def tensor_variance_of_all(x: dict[str, Tensor], y: dict[str, Tensor], size: int) -> Tensor:
    """Tensor sketches of matrices [B, O, I] added up: two of them meet as entries of a count sketch do."""
    squares = [torch.stack([part.square().sum((1, 2)) for part in parts.values()]) for parts in (x, y)]
    products = torch.stack([(x[name] * y[name]).sum((1, 2)) for name in x])
    all_pairs = squares[0].sum(0) * squares[1].sum(0) + products.sum(0).square()
    own_pairs = (squares[0] * squares[1] + products.square()).sum(0)
    return (all_pairs - own_pairs) / size + sum(tensor_variance(x[name], y[name], size) for name in x)
