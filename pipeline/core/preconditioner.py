"""H^-1 with H = C + lambda I, from the spectrum of C: fitted once, then applied. numpy only, float64.

With C = V diag(e) V^T, c = V^T g and the rest r = g - V c (zero where V is square):

    H^-1 g           = V c / (e + lambda) + r / lambda        (and H^-1/2, H^1/2 with roots of the same factors)
    g^T H^-1 g       = sum c^2 / (e + lambda) + |r|^2 / lambda            (S)
    |H^-1 g|^2       = sum c^2 / (e + lambda)^2 + |r|^2 / lambda^2
    g^T H^-1 C H^-1 g = sum c^2 e / (e + lambda)^2                        (W)

and W = S - lambda |H^-1 g|^2 exactly. Letters: n rows, K coordinates, r rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.curvature import Spectrum, absolute_damping

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Forms:
    """Quadratic forms of rows, each [n]: S = g^T H^-1 g, W = g^T H^-1 C H^-1 g, and |H^-1 g|^2."""

    s: Array
    w: Array
    squared_norm: Array


@dataclass(frozen=True)
class Preconditioner:
    """H^-1 in spectral form; `damping` is the absolute lambda."""

    spectrum: Spectrum
    damping: float

    @staticmethod
    def fit(spectrum: Spectrum, damping: float, kind: str = "fisher") -> Preconditioner:
        """From a spectrum and a relative damping; of kind "identity" it takes none, and H = I.

        >>> spectrum = Spectrum(np.array([2.0, 1.0]), np.eye(2), rows=3)
        >>> Preconditioner.fit(spectrum, damping=1.0).solve(np.array([[3.0, 4.0]]))
        array([[1., 2.]])
        """
        return Preconditioner(spectrum, 0.0 if kind == "identity" else absolute_damping(spectrum, damping))

    def solve(self, rows: Array) -> Array:
        """H^-1 g for each row, [n, K]."""
        inside, rest = self._split(rows)
        solved = inside / (self.spectrum.values + self.damping)
        if self.spectrum.vectors is None:
            return solved
        back: Array = solved @ self.spectrum.vectors.T
        return back if rest is None else back + rest / self.damping

    def half(self, rows: Array) -> Array:
        """H^-1/2 g for each row, [n, K]: in such rows, queries and samples are alike."""
        inside, rest = self._split(rows)
        solved = inside / np.sqrt(self.spectrum.values + self.damping)
        if self.spectrum.vectors is None:
            return solved
        back: Array = solved @ self.spectrum.vectors.T
        return back if rest is None else back + rest / np.sqrt(self.damping)

    def root(self, rows: Array) -> Array:
        """H^1/2 u for each row, [n, K]: (H^1/2 u)^T (H^-1/2 g) = u^T g, so it asks rows that went through `half`."""
        inside, rest = self._split(rows)
        scaled = inside * np.sqrt(self.spectrum.values + self.damping)
        if self.spectrum.vectors is None:
            return scaled
        back: Array = scaled @ self.spectrum.vectors.T
        return back if rest is None else back + rest * np.sqrt(self.damping)

    def forms(self, rows: Array) -> Forms:
        """The quadratic forms of each row."""
        inside, rest = self._split(rows)
        squares, damped = np.square(inside), self.spectrum.values + self.damping
        s = (squares / damped).sum(1)
        w = (squares * self.spectrum.values / damped**2).sum(1)
        norm = (squares / damped**2).sum(1)
        if rest is not None:
            outside = np.square(rest).sum(1)
            s, norm = s + outside / self.damping, norm + outside / self.damping**2
        return Forms(s, w, norm)

    def _split(self, rows: Array) -> tuple[Array, Array | None]:
        """Coordinates in the eigenbasis [n, r], and what lies outside of it [n, K], None where nothing can."""
        rows = np.asarray(rows, np.float64)
        vectors = self.spectrum.vectors
        if vectors is None:
            return rows, None
        inside = rows @ vectors
        # The rest is formed as a vector and then squared: the difference of squares would cancel.
        return inside, None if vectors.shape[1] == vectors.shape[0] else rows - inside @ vectors.T
