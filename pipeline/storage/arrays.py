"""Arrays in Zarr v3 groups, every chunk with its own checksum. The only module that knows zarr.

Chunks are cut along the first axis only and are not compressed: codes are quantised gradients, which compress by a few
per cent, and reading them is what limits exact scans.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from pipeline.errors import StoreError
from pipeline.storage.picking import Plain, plain

CHUNK_BYTES = 2**22


def write_arrays(directory: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Write whole arrays as a new group."""
    with ArrayWriter(directory) as writer:
        for name, values in arrays.items():
            writer.append(name, values, total=len(values))


class ArrayWriter:
    """Writes the arrays of a new group by appending rows; what was announced must have come when it closes."""

    def __init__(self, directory: Path) -> None:
        self._group = zarr.open_group(str(directory), mode="w", zarr_format=3)
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._waiting: dict[str, list[np.ndarray[Any, Any]]] = {}
        self._count: dict[str, int] = {}  # rows that wait
        self._chunk_rows: dict[str, int] = {}
        self._written: dict[str, int] = {}

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()

    def append(self, name: str, values: np.ndarray[Any, Any], total: int) -> None:
        """Append rows [b, ...] to array `name`, which will have `total` rows."""
        values = np.asarray(values)
        if name not in self._arrays:
            self._create(name, values, total)
        self._waiting[name].append(values)
        self._count[name] += len(values)
        chunk_rows = self._chunk_rows[name]
        if self._count[name] >= chunk_rows:
            self._flush(name, self._count[name] - self._count[name] % chunk_rows)

    def close(self) -> None:
        """Write what waits, and make sure that every array is whole."""
        for name, array in self._arrays.items():
            self._flush(name, self._count[name])
            if self._written[name] != array.shape[0]:
                raise ValueError(f"expected {array.shape[0]} rows of {name}, got {self._written[name]}")

    def _create(self, name: str, values: np.ndarray[Any, Any], total: int) -> None:
        row_bytes = max(1, values.dtype.itemsize * int(np.prod(values.shape[1:], dtype=np.int64)))
        chunk_rows = max(1, min(total, CHUNK_BYTES // row_bytes))
        self._arrays[name] = self._group.create_array(
            name,
            shape=(total, *values.shape[1:]),
            chunks=(chunk_rows, *(max(1, size) for size in values.shape[1:])),
            dtype=values.dtype,
            compressors=[Crc32cCodec()],
            # Without this, a chunk of zeros would not be written and could not be told from a missing one.
            config={"write_empty_chunks": True},
        )
        self._waiting[name], self._count[name], self._written[name] = [], 0, 0
        self._chunk_rows[name] = chunk_rows

    def _flush(self, name: str, count: int) -> None:
        if not count:
            return
        rows = np.concatenate(self._waiting[name])
        start = self._written[name]
        self._arrays[name][start : start + count] = rows[:count]
        self._written[name] += count
        self._waiting[name], self._count[name] = [rows[count:]], len(rows) - count


class Arrays:
    """A group opened for reading; slices are read and checked as they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._plain: dict[str, Plain | None] = {}
        self._known: dict[str, bool] = {}  # zarr looks at the disk each time, which takes half a millisecond
        try:
            self._group = zarr.open_group(str(directory), mode="r", zarr_format=3)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"expected a store at {directory}, got none that opens; see `lowland verify`") from error

    def names(self) -> list[str]:
        """The arrays of the group."""
        return sorted(self._group.array_keys())

    def __contains__(self, name: str) -> bool:
        if name not in self._known:
            self._known[name] = name in self._group
        return self._known[name]

    def rows(self, name: str) -> int:
        """How many rows an array has."""
        return self.shape(name)[0]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array."""
        return tuple(int(size) for size in self._array(name).shape)

    def read(self, name: str, rows: slice | np.ndarray[Any, Any] | None = None) -> np.ndarray[Any, Any]:
        """Rows of an array: all, a slice, or the positions in an integer array.

        Raises:
            StoreError: no such array, or a chunk that fails its checksum.
        """
        array = self._array(name)
        try:
            picked = (
                array.oindex[rows] if isinstance(rows, np.ndarray) else array[rows if rows is not None else slice(None)]
            )
        except (OSError, ValueError, IndexError) as error:
            raise self._damaged(name, error) from error
        return np.asarray(picked)

    def pick(self, name: str, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Rows at some positions, as `read` gives them, but fast and without a look at checksums.

        `pipeline.storage.picking` does without whole chunks, where it can. What comes must be checked by what else is
        known of it.

        Raises:
            StoreError: no such array, or chunks that are not there or too short.
        """
        if name not in self._plain:
            self._array(name)
            self._plain[name] = plain(self.directory / name)
        found = self._plain[name]
        if found is None:
            return self.read(name, rows)
        try:
            return found.rows(rows)
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> StoreError:
        return StoreError(
            f"expected {self.directory}/{name} as it was written, got a damaged chunk ({error}); "
            "run `lowland verify` to see which, delete its manifest and run `lowland run`"
        )

    def _array(self, name: str) -> Any:
        if name not in self:
            raise StoreError(f"expected an array {name!r} in {self.directory}, got {', '.join(self.names()) or 'none'}")
        return self._group[name]
