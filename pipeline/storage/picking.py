"""Single rows of an array, read from its chunk files: what a query needs of some hundred rows out of a million.

Through zarr each row would cost its whole chunk, 4 MiB. Here it costs itself; the price is that the chunk's checksum,
which is over all of it, is not looked at: whoever picks rows checks them by what else is known of them. Only arrays as
`pipeline.storage.arrays` writes them can be picked from: a file a chunk, cut along the first axis, not compressed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
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
        """The rows at some positions, [p, ...], in their order; positions within the array, best ascending.

        Not mapped: pages of the cache would count as memory of this process.

        Raises:
            OSError: a chunk is missing or too short.
        """
        out = np.empty((len(positions), *self.shape[1:]), self.dtype)
        if not out.size:
            return out
        size, view = out[0].nbytes, out.reshape(-1).view(np.uint8).data
        last, handle = -1, -1
        try:
            for place, position in enumerate(positions.tolist()):
                chunk, row = divmod(position, self.chunk_rows)
                if chunk != last:
                    last, handle = chunk, self._reopened(handle, chunk)
                if os.preadv(handle, [view[place * size : (place + 1) * size]], row * size) < size:
                    raise OSError(f"expected {size} bytes at {row * size} in {self._file(chunk)}, got its end")
        finally:
            if handle >= 0:
                os.close(handle)
        return out

    def _reopened(self, handle: int, chunk: int) -> int:
        """Another chunk's file, in place of an open one."""
        another = os.open(self._file(chunk), os.O_RDONLY)
        if handle >= 0:
            os.close(handle)
        return another

    def _file(self, chunk: int) -> str:
        return f"{self.directory}/c/{chunk}" + "/0" * (len(self.shape) - 1)


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
