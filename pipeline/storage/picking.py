"""Single rows of an array, read from its chunk files: what a query needs of some hundred rows out of a million.

Through zarr each row would cost its whole chunk, 4 MiB. Here it costs itself; the price is that the chunk's checksum,
which is over all of it, is not looked at: whoever picks rows checks them by what else is known of them. Only arrays as
`pipeline.storage.arrays` writes them can be picked from: a file a chunk, cut along the first axis, not compressed.
"""

from __future__ import annotations

import json
import mmap
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Plain:
    """An array whose chunks lie in files as they are in memory.

    Attributes:
        directory: of the array.
        shape: of the array.
        chunk_rows: rows of a chunk.
        dtype: of a number.
    """

    directory: Path
    shape: tuple[int, ...]
    chunk_rows: int
    dtype: np.dtype[Any]

    def rows(self, positions: Array) -> Array:
        """The rows at some positions, [p, ...], in their order; positions within the array.

        Raises:
            OSError: a chunk is missing or too short.
        """
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        if not len(positions):
            return out
        owner, within = np.divmod(positions, self.chunk_rows)
        order = np.argsort(owner, kind="stable")
        chunks, starts = np.unique(owner[order], return_index=True)
        for chunk, mine in zip(chunks, np.split(order, starts[1:]), strict=True):
            out[mine] = self._chunk(int(chunk))[within[mine]]
        return out

    def _chunk(self, index: int) -> Array:
        file = f"{self.directory}/c/" + "/".join([str(index), *("0" * (len(self.shape) - 1))])
        buffer = self._mapped.get(index) or self._mapped.setdefault(index, _map(file))
        count = self.chunk_rows * self._row_numbers
        if len(buffer) < count * self.dtype.itemsize:
            raise OSError(f"expected {count * self.dtype.itemsize} bytes in {file}, got {len(buffer)}")
        return np.frombuffer(buffer, self.dtype, count).reshape(self.chunk_rows, *self.shape[1:])

    @cached_property
    def _mapped(self) -> dict[int, mmap.mmap]:
        """Chunk files once they were used: they take addresses, and no memory of their own."""
        return {}

    @cached_property
    def _row_numbers(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))


def _map(file: str) -> mmap.mmap:
    with Path(file).open("rb", buffering=0) as stream:
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


def plain(directory: Path) -> Plain | None:
    """The array in a directory, where it can be picked from."""
    try:
        about = json.loads((directory / "zarr.json").read_text(encoding="utf-8"))
        grid, keys = about["chunk_grid"], about["chunk_key_encoding"]
        codecs = [(codec["name"], codec.get("configuration", {}).get("endian", "little")) for codec in about["codecs"]]
        shape, chunk = tuple(about["shape"]), tuple(grid["configuration"]["chunk_shape"])
        separator = keys.get("configuration", {}).get("separator", "/")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    fits = (
        codecs in ([("bytes", "little")], [("bytes", "little"), ("crc32c", "little")])
        and (grid["name"], keys["name"], separator) == ("regular", "default", "/")
        and all(size == whole for size, whole in zip(chunk[1:], shape[1:], strict=True))
    )
    return Plain(directory, shape, chunk[0], np.dtype(about["data_type"]).newbyteorder("<")) if fits else None
