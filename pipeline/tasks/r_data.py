"""Data frames out of R's .rda files (`save`), as far as numbers, factors and text go.

Format ("R Internals", section on serialization): compressed by gzip, bzip2 or xz; the lines RDX2 or RDX3, and X for
big-endian binary, three version numbers (and from version 3 the name of an encoding), then objects. An object begins
with a 32-bit word: its type in the lowest eight bits, whether attributes (512) and a tag (1024) follow. Whatever else
than lists, symbols, text, integers and doubles a file holds is refused: R's files may carry functions, and none is run.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError

Column = np.ndarray[Any, Any] | list[str]

LARGEST_BYTES = 2**28
OPENERS = {b"\x1f\x8b": gzip.decompress, b"BZ": bz2.decompress, b"\xfd7": lzma.decompress}

NIL, REFERENCE, SYMBOL, PAIRS, TEXT = 254, 255, 1, 2, 9
LOGICAL, INTEGER, DOUBLE, STRINGS, LIST = 10, 13, 14, 16, 19
ATTRIBUTES, TAG = 512, 1024


def read_frame(file: Path, name: str) -> dict[str, Column]:
    """The data frame called `name`: column to values; factors as a list of their levels' names.

    Raises:
        DataError: no such file or frame, damaged, or with objects that are no data.
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; mend the path")
    try:
        data = file.read_bytes()
        plain = OPENERS.get(data[:2], bytes)(data)
        if len(plain) > LARGEST_BYTES:
            raise ValueError(f"{len(plain)} bytes")
        objects = _Reader(plain).objects()
        values, attributes = objects[name]
        return {key: _column(*value) for key, value in zip(attributes["names"][0], values, strict=True)}
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OSError, EOFError) as error:
        raise _refusal(file, name, error) from error
    except (struct.error, lzma.LZMAError, zlib.error) as error:
        raise _refusal(file, name, error) from error


def _refusal(file: Path, name: str, error: Exception) -> DataError:
    return DataError(
        f"expected R's data frame {name} in {file.name}, got {type(error).__name__}: {error}; get the file again"
    )


def _column(values: Any, attributes: dict[str, Any]) -> Column:
    if "levels" not in attributes:
        return np.asarray(values)
    levels = attributes["levels"][0]
    return [levels[code - 1] for code in values]


class _Reader:
    """Reads objects one after the other; each is (value, attributes)."""

    def __init__(self, data: bytes) -> None:
        if data[:5] not in (b"RDX2\n", b"RDX3\n") or data[5:7] != b"X\n":
            raise ValueError(f"a beginning {data[:7]!r}")
        self._data, self._at = data, 7
        self._symbols: list[str] = []
        version, _, _ = self._words(3)
        if version == 3:
            self._take(self._words(1)[0])

    def objects(self) -> dict[str, Any]:
        """What was saved, by name."""
        value, _ = self._object()
        return dict(value)

    def _take(self, count: int) -> bytes:
        if count < 0 or self._at + count > len(self._data):
            raise ValueError("a file that ends too early")
        self._at += count
        return self._data[self._at - count : self._at]

    def _words(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f">{count}i", self._take(4 * count))

    def _object(self) -> tuple[Any, dict[str, Any]]:
        (flags,) = self._words(1)
        kind = flags & 255
        if kind == NIL:
            return None, {}
        if kind == SYMBOL:
            self._symbols.append(self._object()[0])
            return self._symbols[-1], {}
        if kind == REFERENCE:
            return self._symbols[(flags >> 8) - 1], {}
        if kind == PAIRS:
            return self._pairs(flags), {}
        value = self._value(kind)
        return value, dict(self._object()[0]) if flags & ATTRIBUTES else {}

    def _pairs(self, flags: int) -> list[tuple[str, Any]]:
        """A pairlist as (tag, object) pairs; its cells follow one another."""
        found = []
        while flags & 255 == PAIRS:
            if flags & ATTRIBUTES:
                self._object()
            tag = self._object()[0] if flags & TAG else ""
            found.append((tag, self._object()))
            (flags,) = self._words(1)
        if flags & 255 != NIL:
            raise ValueError(f"an object of type {flags & 255}")
        return found

    def _value(self, kind: int) -> Any:
        (count,) = self._words(1)
        if kind == TEXT:
            return "" if count == -1 else self._take(count).decode("utf-8", "replace")
        if kind in (INTEGER, LOGICAL):
            return np.frombuffer(self._take(4 * count), ">i4").astype(np.int64)
        if kind == DOUBLE:
            return np.frombuffer(self._take(8 * count), ">f8").astype(np.float64)
        if kind == STRINGS:
            return [self._object()[0] for _ in range(count)]
        if kind == LIST:
            return [self._object() for _ in range(count)]
        raise ValueError(f"an object of type {kind}")
