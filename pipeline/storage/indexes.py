"""Nearest neighbours by inner product. The only module that knows faiss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pipeline.errors import ConfigError, StoreError

WRITE_BYTES = 2**20

Floats = np.ndarray[Any, np.dtype[np.float32]]


def build(factory: str, dimension: int, blocks: Iterable[tuple[np.ndarray[Any, Any], Floats]],
          sample: Callable[[], Floats], threads: int) -> Any:  # fmt: skip
    """An index over blocks of (ids [n], vectors [n, K]), by inner product.

    Args:
        factory: a FAISS factory string.
        dimension: K.
        blocks: ids and vectors.
        sample: gives vectors [n, K] to train quantisers on; only called where the factory needs training.
        threads: BLAS and FAISS threads.

    Raises:
        ConfigError: not a factory string, or one that needs more rows than there are.
    """
    faiss.omp_set_num_threads(threads)
    if "IDMap" in factory:
        raise ConfigError(f"expected index.factory without IDMap, which is always added, got {factory!r}; leave it out")
    try:
        # The wrapper gives every factory ids of ours, so that excluded rows leave no gaps.
        index = faiss.index_factory(dimension, f"IDMap,{factory}", faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise ConfigError(
            f"expected a FAISS factory string for index.factory, got {factory!r}; try Flat or IVF256,SQ8"
        ) from error
    if not index.is_trained:
        _train(index, factory, sample())
    for ids, vectors in blocks:
        if len(ids):
            index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))
    return index


def _train(index: Any, factory: str, sample: Floats) -> None:
    try:
        index.train(np.ascontiguousarray(sample, np.float32))
    except RuntimeError as error:
        raise ConfigError(
            f"expected enough rows to train index.factory {factory!r}, got {len(sample)}; use fewer cells, or Flat"
        ) from error


def tune(index: Any, probes: int, breadth: int) -> None:
    """Set how much of the index a search visits; kinds without such a parameter are left as they are."""
    inner = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
    inner = faiss.downcast_index(inner.index) if isinstance(inner, faiss.IndexPreTransform) else inner
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(probes, inner.nlist)
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = breadth


def save(index: Any, path: Path) -> None:
    """Write an index."""
    # Through Python's file: faiss's own only prints what goes wrong when the last bytes are written out.
    with path.open("wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write, WRITE_BYTES))  # type: ignore[attr-defined]


def load(path: Path) -> Any:
    """Read an index, mapped into memory where its kind allows.

    Raises:
        StoreError: it does not read.
    """
    try:
        return faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
    except RuntimeError as error:
        raise StoreError(f"expected an index at {path}, got none that opens; see `lowland verify`") from error


def search(index: Any, vectors: Floats, k: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Ids [q, k] and inner products [q, k] of the k nearest; -1 where the search found fewer."""
    products, ids = index.search(np.ascontiguousarray(vectors, np.float32), k)
    return ids, products
