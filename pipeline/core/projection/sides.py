"""The eigenbasis of one side of a parameter, from its second moment M = sum over x x^T.

A side of up to `LONGEST` numbers keeps M itself and takes its leading eigenvectors. A longer one keeps only M times a
random [n, w] matrix and takes those of the Nystrom approximation (Tropp, Yurtsever, Udell and Cevher 2017, arXiv
1706.05736), whose error is of the order of the eigenvalues left out; w is twice the basis, so no n x n matrix is held.

M is a float64 sum of products of a few thousand vectors each, in the vectors' own precision: float32's relative 1e-7 of
the largest eigenvalue lies below what a sample of rows can tell, at half the cost. The sketch is all float64, as its
Cholesky factor feels every rounding.

Letters: n numbers of a side, m vectors of a batch, r size of the basis, w width of the sketch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from pipeline.core.factors import at_least_float32

LONGEST = 2048
STEP_BYTES = 2**24  # of vectors multiplied at a time, counted in float64


class Side(ABC):
    """The second moment of a side of n numbers."""

    def add(self, vectors: Tensor) -> None:
        """Add vectors [m, n], but for those that are not finite."""
        step = max(1, STEP_BYTES // (8 * vectors.shape[1]))
        for part in vectors.split(step):
            own = at_least_float32(part.cpu())
            if not math.isfinite(_largest(own)):
                own = own[own.isfinite().all(1)]
            self._add(own)

    @abstractmethod
    def add_units(self, indices: Tensor) -> None:
        """Add unit vectors with their one at `indices`, [m]."""

    @abstractmethod
    def basis(self, rank: int) -> Tensor:
        """The leading r = min(`rank`, n) eigenvectors, [n, r], orthonormal, largest eigenvalue first, signs fixed."""

    @abstractmethod
    def _add(self, vectors: Tensor) -> None:
        """Add finite vectors [m, n]."""


class ExactSide(Side):
    """M itself, [n, n]."""

    def __init__(self, size: int) -> None:
        """Of n = `size` numbers."""
        self._moment = torch.zeros(size, size, dtype=torch.float64)

    def basis(self, rank: int) -> Tensor:
        """See the base."""
        vectors = torch.linalg.eigh(self._moment).eigenvectors.flip(1)
        return signed(vectors[:, :rank])

    def add_units(self, indices: Tensor) -> None:
        """See the base."""
        self._moment.diagonal().add_(torch.bincount(indices.cpu(), minlength=len(self._moment)))

    def _add(self, vectors: Tensor) -> None:
        largest = _largest(vectors)
        if largest > 0:  # scaled, for squares of small float32 numbers are zero
            scaled = vectors / largest
            self._moment.add_(scaled.T @ scaled, alpha=largest**2)


class SketchedSide(Side):
    """M times a random matrix [n, w]."""

    def __init__(self, size: int, rank: int, generator: np.random.Generator) -> None:
        """Of n = `size` numbers, for bases of up to r = `rank`; the generator draws the random matrix."""
        drawn = np.linalg.qr(generator.standard_normal((size, min(size, 2 * rank))))[0]
        self._random = torch.from_numpy(np.ascontiguousarray(drawn))
        self._product = torch.zeros_like(self._random)

    def basis(self, rank: int) -> Tensor:
        """See the base."""
        # A small shift keeps the Cholesky factor of a moment of low rank finite (Tropp et al., algorithm 3).
        shift = torch.finfo(torch.float64).eps ** 0.5 * torch.linalg.matrix_norm(self._product) + 1e-300
        shifted = self._product + shift * self._random
        core = self._random.T @ shifted
        factor = torch.linalg.cholesky((core + core.T) / 2)
        root = torch.linalg.solve_triangular(factor, shifted.T, upper=False).T  # M is about root root^T
        return signed(torch.linalg.svd(root, full_matrices=False).U[:, :rank])

    def add_units(self, indices: Tensor) -> None:
        """See the base."""
        counts = torch.bincount(indices.cpu(), minlength=len(self._random))
        self._product += counts.unsqueeze(1) * self._random

    def _add(self, vectors: Tensor) -> None:
        exact = vectors.double()
        self._product.addmm_(exact.T, exact @ self._random)


def _largest(values: Tensor) -> float:
    """The largest absolute value, NaN where there is one; zero of none."""
    return float(torch.stack(values.aminmax()).abs().amax()) if values.numel() else 0.0


def signed(vectors: Tensor) -> Tensor:
    """Each column with its largest entry positive, as eigenvectors have no sign of their own."""
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    return torch.where(largest < 0, -vectors, vectors).contiguous()
