"""Artefacts that are Zarr groups, opened for reading; apart from what decodes codes, which training needs not."""

from __future__ import annotations

from pathlib import Path

from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest, open_artefact


def open_arrays(path: Path, kind: str) -> tuple[Manifest, Arrays]:
    """A Zarr artefact, complete.

    Raises:
        StoreError: it is missing, of another kind, or damaged.
    """
    return open_artefact(path, kind), Arrays(path)
