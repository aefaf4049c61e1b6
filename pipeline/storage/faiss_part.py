"""One FAISS index of rows by id and inner product: a part of what `pipeline.storage.indexes` searches.

The only module that knows faiss.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np

from pipeline.errors import ConfigError, StoreError

WRITE_BYTES = 2**20
PRODUCT_QUERIES = 4
"""From so many queries on, flat rows are scanned for all of them by one matrix product, not once for each: of 20
queries, a sixth of the time. FAISS 1.15 does so from 128,000 on."""
faiss.cvar.distance_compute_blas_threshold = PRODUCT_QUERIES
MAPPED = tuple(
    faiss.IO_FLAG_READ_ONLY | flags for flags in (faiss.IO_FLAG_MMAP | faiss.IO_FLAG_MMAP_IFC, faiss.IO_FLAG_MMAP)
)
"""Ways to map an index into memory: codes that lie one after the other, or else the lists of an inverted file."""

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float32]]


def use_threads(threads: int) -> None:
    """How many threads FAISS takes for calls from this thread."""
    faiss.omp_set_num_threads(threads)


def empty(factory: str, dimension: int) -> Any:
    """An index without rows, of a FAISS factory string and K numbers a row.

    Raises:
        ConfigError: not a factory string.
    """
    if "IDMap" in factory:
        raise ConfigError(f"expected index.factory without IDMap, which is always added, got {factory!r}; leave it out")
    try:
        return _with_ids(faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT))
    except RuntimeError as error:
        raise ConfigError(
            f"expected a FAISS factory string for index.factory, got {factory!r}; try Flat or IVF256,SQ8"
        ) from error


def copied(index: Any) -> Any:
    """Another of the same kind, quantisers and rows."""
    return faiss.deserialize_index(faiss.serialize_index(index))


def train(index: Any, factory: str, sample: Floats) -> None:
    """Fit the quantisers to rows [n, K].

    Raises:
        ConfigError: too few of them.
    """
    try:
        index.train(np.ascontiguousarray(sample, np.float32))
    except RuntimeError as error:
        raise ConfigError(
            f"expected enough rows to train index.factory {factory!r}, got {len(sample)}; use fewer cells, or Flat"
        ) from error


def add(index: Any, own: Array, rows: Floats) -> None:
    """Add rows [n, K] under ids [n]."""
    if len(own):
        index.add_with_ids(np.ascontiguousarray(rows, np.float32), np.ascontiguousarray(own, np.int64))


def remove(index: Any, gone: Array) -> bool:
    """Take the ids out; False, and no change, where the kind cannot."""
    try:
        index.remove_ids(np.ascontiguousarray(gone, np.int64))
    except RuntimeError:  # a graph, whose nodes are held by others
        return False
    return True


def _with_ids(index: Any) -> Any:
    """An index that takes ids of ours, so that excluded rows leave no gaps.

    Inverted files do so themselves; in a wrapper, they would answer with wrong ids once rows were taken out.
    """
    if isinstance(_inner(index), faiss.IndexIVF):
        return index
    wrapped = faiss.IndexIDMap(index)
    index.this.disown()
    wrapped.own_fields = True
    return wrapped


def _inner(index: Any) -> Any:
    """The part of an index that holds the vectors: behind ids and rotations."""
    inner = faiss.downcast_index(index)
    while isinstance(inner, (faiss.IndexIDMap, faiss.IndexPreTransform)):
        inner = faiss.downcast_index(inner.index)
    return inner


def is_scanned(index: Any) -> bool:
    """Whether a search goes over all rows, so that several parts take no longer than one; not so cells and graphs."""
    return isinstance(_inner(index), (faiss.IndexFlatCodes, faiss.IndexFastScan))


def is_trained_on_rows(index: Any) -> bool:
    """Whether the kind has quantisers that were fitted to rows."""
    return not isinstance(_inner(index), (faiss.IndexFlat, faiss.IndexHNSWFlat))


def tune(index: Any, probes: int, breadth: int) -> None:
    """Set how much of the index a search visits; kinds without such a parameter are left as they are."""
    inner = _inner(index)
    if isinstance(inner, faiss.IndexIVF):
        inner.nprobe = min(probes, inner.nlist)
    elif isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efSearch = breadth


def write(index: Any, path: Path) -> None:
    """Write an index."""
    # Through Python's file: faiss's own only prints what goes wrong when the last bytes are written out.
    with path.open("wb") as stream:
        faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write, WRITE_BYTES))  # type: ignore[attr-defined]


def read(path: Path, to_change: bool = False) -> Any:
    """Read an index, to change it, or mapped into memory where its kind allows.

    Raises:
        StoreError: it does not read.
    """
    fault: RuntimeError | None = None
    for flags in (0,) if to_change else MAPPED:
        try:
            return faiss.read_index(str(path), flags)
        except RuntimeError as error:
            fault = error
    raise StoreError(f"expected an index at {path}, got none that opens; see `lowland verify`") from fault


def search(index: Any, vectors: Floats, k: int) -> tuple[Array, Array]:
    """Ids [q, k] and inner products [q, k] of the k nearest; -1 where the search found fewer."""
    products, found = index.search(vectors, k)
    return found, products


def ids(index: Any) -> Array:
    """The ids of all vectors of an index, [n]."""
    inner: Any = _inner(index)
    if not isinstance(inner, faiss.IndexIVF):
        wrapper: Any = faiss.downcast_index(index)
        return faiss.vector_to_array(wrapper.id_map)
    lists: Any = inner.invlists
    return np.concatenate([faiss.rev_swig_ptr(lists.get_ids(i), lists.list_size(i)) for i in range(inner.nlist)])


def vectors(index: Any, wanted: Array) -> Floats | None:
    """What an index keeps of the vectors with these ids, [n, K]; None where its kind cannot tell."""
    inner, places = _inner(index), wanted
    if isinstance(inner, faiss.IndexIVFFastScan):  # once read from a file, it would end the process
        return None
    if isinstance(inner, faiss.IndexIVF):
        inner.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]
    else:
        known = ids(index)
        order = np.argsort(known, kind="stable")
        places = order[np.searchsorted(known, wanted, sorter=order)]
        wrapper: Any = faiss.downcast_index(index)
        index = faiss.downcast_index(wrapper.index)
    try:
        return np.stack([index.reconstruct(int(place)) for place in places])
    except RuntimeError:
        return None


def error(index: Any) -> float:
    """How far a coordinate of a kept vector may be off, as a share of the largest one there is; 2 where all may be."""
    inner = _inner(index)
    if isinstance(inner, (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat)):
        return 0.0 if inner.d == index.d else 2.0
    return 0.05 if isinstance(inner, (faiss.IndexScalarQuantizer, faiss.IndexIVFScalarQuantizer)) else 2.0
