"""Conjugate gradients (Hestenes and Stiefel 1952): as Koh and Liang (ICML 2017) invert the Hessian."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """An approximate solution of A u = v.

    Attributes:
        vector: u, [P].
        residual: |A u - v| / |v|.
        products: with A that it took.
    """

    vector: Tensor
    residual: float
    products: int


def conjugate_gradients(product: Callable[[Tensor], Tensor], vector: Tensor, tolerance: float, most: int) -> Solution:
    """u with A u = v, for a symmetric positive definite A, from u = 0.

    >>> matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]], dtype=torch.float64)
    >>> conjugate_gradients(lambda u: matrix @ u, torch.tensor([1.0, 2.0], dtype=torch.float64), 1e-9, 9).products
    2

    Args:
        product: A u.
        vector: v, [P] float64.
        tolerance: of the residual that it recurs on, over |v|, at which it stops.
        most: products at most.
    """
    found, rest = torch.zeros_like(vector), vector.clone()
    direction, squared, size, products = rest.clone(), float(rest @ rest), float(vector.norm()), 0
    while products < most and squared**0.5 > tolerance * size:
        image = product(direction)
        step = squared / float(direction @ image)
        found += step * direction
        rest -= step * image
        before, squared = squared, float(rest @ rest)
        direction = rest + (squared / before) * direction
        products += 1
    return Solution(found, squared**0.5 / size if size else 0.0, products)
