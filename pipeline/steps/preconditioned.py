"""Opening the curvature and what it preconditioned; refuses as `pipeline.steps.stores` does. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.core.curvature import Spectrum
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.steps.codes import FINITE, CodeSet
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

Array = np.ndarray[Any, Any]

HELD_BYTES = 2**26
"""Vectors that are kept in memory once a row of them was asked for."""


def open_preconditioner(layout: Layout, checkpoint: str, split: str) -> tuple[Preconditioner, Manifest]:
    """H^-1 of a split's curvature at a checkpoint."""
    manifest, arrays = open_arrays(layout.curvature(checkpoint, split), "curvature")
    return preconditioner_in(arrays, manifest.identity["rows"]), manifest


def preconditioner_in(arrays: Arrays, rows: int) -> Preconditioner:
    """H^-1 from the arrays of a curvature of so many rows."""
    vectors = arrays.read("vectors") if "vectors" in arrays else None
    return Preconditioner(Spectrum(arrays.read("values"), vectors, rows), float(arrays.read("damping")[0]))


def arrays_of(fitted: Preconditioner) -> dict[str, Array]:
    """The same as arrays: values [r], vectors [K, r] unless diagonal, damping [1]."""
    arrays = {"values": fitted.spectrum.values, "damping": np.array([fitted.damping])}
    return arrays if fitted.spectrum.vectors is None else {**arrays, "vectors": fitted.spectrum.vectors}


@dataclass(frozen=True)
class Vectors:
    """Rows of a split that may be asked about, as they are and preconditioned, float64."""

    manifest: Manifest
    arrays: Arrays
    held: dict[str, Array] = field(default_factory=dict)
    """Arrays that were read whole."""

    def codes(self, rows: Array | slice | None = None) -> Array:
        """g, [n, K]."""
        return self._read("code", rows)

    def solved(self, rows: Array | slice | None = None) -> Array:
        """u = H^-1 g, [n, K]."""
        return self._read("solved", rows)

    def _read(self, name: str, rows: Array | slice | None) -> Array:
        """Single rows of a small array are given from memory: reading one takes all of its chunk, each time."""
        if not isinstance(rows, np.ndarray):
            return self.arrays.read(name, rows)
        if name not in self.held:
            if 8 * math.prod(self.arrays.shape(name)) > HELD_BYTES:
                return self.arrays.read(name, rows)
            self.held[name] = self.arrays.read(name)
        return self.held[name][rows]

    def finite(self) -> Array:
        """Which rows are numbers, [n] bool."""
        return self.arrays.read("flag") == FINITE


def open_vectors(layout: Layout, checkpoint: str, split: str) -> Vectors:
    """The vectors of validation or query rows at a checkpoint.

    Raises:
        StoreError: missing or damaged, or made with another curvature than stands there now.
    """
    path, source = layout.vectors(checkpoint, split), layout.curvature(checkpoint, CURVATURE_SPLIT[checkpoint])
    vectors = Vectors(*open_arrays(path, "vectors"))
    if vectors.manifest.identity["curvature"] != read_manifest(source).digest:
        raise StoreError(f"expected {path} made with the curvature at {source}, got another one; run `lowland run`")
    return vectors


def check_curvature(layout: Layout, checkpoint: str, codes: CodeSet) -> None:
    """Refuse a curvature of train rows that was summed over other gradients than these.

    Raises:
        StoreError: naming both.
    """
    path = layout.curvature(checkpoint, "train")
    manifest = read_manifest(path)
    if manifest.identity["curvature"]["kind"] != "ggn" and manifest.identity["inputs"] != codes.digests():
        raise StoreError(
            f"expected {path} summed over {codes.shards[0].path.parent}, got one of other gradients; run `lowland run`"
        )
