"""Curvature of a set of rows in the compressed space, and its spectrum. numpy only, float64 throughout.

All kinds are C = (1/M) sum over root rows r of r r^T, with M the number of rows behind it (not of root rows):

* `fisher`: the empirical Fisher matrix; roots are the rows' gradients g_m.
* `ggn`: the generalised Gauss-Newton matrix of softmax cross-entropy, J^T (diag p - p p^T) J, which equals the mean
  over labels c ~ p of g_c g_c^T; roots are sqrt(p_c) g_c over all classes, or g_c / sqrt(s) over s sampled labels.
* `diagonal`: the diagonal of the empirical Fisher matrix.
* `identity`: C = I, with no damping: S is then the squared gradient norm.

The inverse is kept in spectral form, C = V diag(e) V^T. Woodbury's difference form, (|g|^2 - ...)/lambda, cancels at
small damping; the spectral form does not. Letters: M rows, R root rows, K coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import DataError

Array = np.ndarray[Any, Any]

KINDS = ("fisher", "ggn", "diagonal", "identity")
RELATIVE_RANK = 1e-14
"""Eigenvalues below this share of the largest are rounding and are dropped."""


@dataclass(frozen=True)
class Spectrum:
    """C = V diag(e) V^T.

    Attributes:
        values: e, [r], descending.
        vectors: V, [K, r]; None where C is diagonal in the coordinates themselves, and r = K.
        rows: M.
    """

    values: Array
    vectors: Array | None
    rows: int

    @property
    def trace(self) -> float:
        """tr(C)."""
        return float(self.values.sum())


def outer_sum(roots: Array) -> Array:
    """Sum over root rows [R, K] of r r^T, [K, K]: the mergeable sum behind `fisher` and `ggn`."""
    roots = roots.astype(np.float64)
    total: Array = roots.T @ roots
    return total


def square_sum(roots: Array) -> Array:
    """Sum over root rows [R, K] of their squared coordinates, [K]: the mergeable sum behind `diagonal`."""
    total: Array = np.square(roots, dtype=np.float64).sum(0)
    return total


def spectrum_of_roots(roots: Array, rows: int) -> Spectrum:
    """Spectrum from the root rows themselves, [R, K] with R < K: of rank R at most, by singular values."""
    _, singular, right = np.linalg.svd(roots.astype(np.float64) / np.sqrt(rows), full_matrices=False)
    return _truncated(singular**2, right.T, rows)


def spectrum_of_sum(total: Array, rows: int) -> Spectrum:
    """Spectrum from `outer_sum`, [K, K], by eigendecomposition."""
    values, vectors = np.linalg.eigh(total / rows)
    return _truncated(values[::-1], vectors[:, ::-1], rows)


def spectrum_of_squares(total: Array, rows: int) -> Spectrum:
    """Diagonal spectrum from `square_sum`, [K]."""
    return Spectrum(total / rows, None, rows)


def identity_spectrum(dimension: int, rows: int) -> Spectrum:
    """C = I in K coordinates."""
    return Spectrum(np.ones(dimension), None, rows)


def _truncated(values: Array, vectors: Array, rows: int) -> Spectrum:
    kept = values > RELATIVE_RANK * max(values[0], 0) if len(values) else np.zeros(0, bool)
    return Spectrum(values[kept], np.ascontiguousarray(vectors[:, kept]), rows)


def absolute_damping(spectrum: Spectrum, damping: float) -> float:
    """lambda = damping x tr(C) / M: relative, and unchanged when K changes.

    Raises:
        DataError: the curvature is zero, so that no damping is relative to it.
    """
    if spectrum.trace <= 0:
        raise DataError(
            "expected gradients that differ from zero in the rows behind the curvature, got none; "
            "check that the loss depends on the parameters that are included"
        )
    return damping * spectrum.trace / spectrum.rows
