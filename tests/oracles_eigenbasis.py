"""Eigenbasis selection done densely: whole gradients, Kronecker products of whole bases, sorted energies, SVD."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

Rows = Mapping[str, Tensor]  # parameter -> gradients [n, O, I]
Factors = Mapping[str, tuple[Tensor, Tensor]]  # parameter -> output gradients [n, T, O] and inputs [n, T, I]


def top_eigenvectors(vectors: Tensor, rank: int) -> Tensor:
    """The leading eigenvectors of the sum of x x^T over vectors [m, n], one vector at a time."""
    moment = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for vector in vectors.double():
        moment += torch.outer(vector, vector)
    return torch.linalg.eigh(moment).eigenvectors.flip(1)[:, :rank]


def rotated_rows(rows: Rows, factors: Factors, rank: int) -> Tensor:
    """All rotated coordinates of all parameters side by side, [n, sum r_o r_i]."""
    found = []
    for name, gradient in rows.items():
        _, outputs, inputs = gradient.shape
        if name in factors:
            left, right = (top_eigenvectors(side.flatten(0, 1), rank) for side in factors[name])
        else:
            left = top_eigenvectors(gradient.mT.reshape(-1, outputs), rank)
            right = top_eigenvectors(gradient.reshape(-1, inputs), rank)
        found.append(gradient.double().flatten(1) @ torch.kron(left, right))
    return torch.cat(found, 1)


def selected_rows(rows: Rows, factors: Factors, rank: int, count: int) -> Tensor:
    """The `count` rotated coordinates of largest mean square, [n, count]."""
    coefficients = rotated_rows(rows, factors, rank)
    return coefficients[:, np.argsort(-coefficients.square().mean(0).numpy())[:count]]


def principal_rows(rows: Tensor, dimension: int) -> Tensor:
    """Rows [n, K1] in the K leading singular directions of those rows at length 1, [n, K]."""
    units = rows / rows.square().sum(1, keepdim=True).sqrt()
    return rows @ torch.linalg.svd(units, full_matrices=True).Vh[:dimension].T
