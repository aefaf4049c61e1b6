"""The content of a row in 16 bytes: blake2b over a canonical walk.

Two rows have one digest exactly when they hold the same values in the same order with the same types and shapes. Every
part is written as tag, length, bytes, so that no two different rows spell the same stream. Tensors and numpy arrays of
equal dtype, shape and values are the same content, wherever they live and however they are strided; tuples and lists
are both sequences; the order of a dict's keys does not matter.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError

DIGEST_BYTES = 16


def digest(row: Any) -> bytes:
    """16 bytes that name the content of `row`.

    Args:
        row: tensors, arrays, numbers, strings, bytes, None, dataclasses, and tuples, lists and dicts of them, nested;
            anything else that numpy takes as an array of numbers (an image of Pillow's, say).

    Raises:
        DataError: the row holds something that has no canonical bytes.
    """
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for tag, data in _walk(row):
        state.update(tag + struct.pack("<Q", len(data)))
        state.update(data)
    return state.digest()


def _walk(value: Any) -> Iterator[tuple[bytes, bytes]]:
    """(tag, bytes) of each part, depth first."""
    if isinstance(value, Tensor):
        yield from _tensor(value)
    elif isinstance(value, (np.ndarray, np.generic)):
        yield from _array(np.asarray(value))
    elif isinstance(value, (tuple, list)):
        yield b"S", str(len(value)).encode()
        for item in value:
            yield from _walk(item)
    elif isinstance(value, dict):
        yield b"D", str(len(value)).encode()
        for key in sorted(value, key=digest):
            yield from _walk(key)
            yield from _walk(value[key])
    elif is_dataclass(value) and not isinstance(value, type):
        yield b"C", type(value).__name__.encode()
        for field in fields(value):
            yield b"K", field.name.encode()
            yield from _walk(getattr(value, field.name))
    else:
        yield _scalar(value)


def _scalar(value: Any) -> tuple[bytes, bytes]:
    if value is None:
        return b"0", b""
    if isinstance(value, bool):
        return b"?", b"1" if value else b"0"
    if isinstance(value, int):
        return b"i", str(value).encode()
    if isinstance(value, float):
        return b"f", struct.pack("<d", math.nan if math.isnan(value) else value)
    if isinstance(value, str):
        return b"s", value.encode("utf-8", "surrogatepass")
    if isinstance(value, (bytes, bytearray)):
        return b"b", bytes(value)
    return _foreign(value)


def _foreign(value: Any) -> tuple[bytes, bytes]:
    """Objects that show themselves as arrays of numbers."""
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise DataError(
            f"expected rows of tensors, arrays, numbers, strings, tuples, lists and dicts, got {type(value).__name__}; "
            "convert it in the dataset's __getitem__"
        )
    return b"A", b"".join(bytes(data) for _, data in _array(array))


def _tensor(value: Tensor) -> Iterator[tuple[bytes, bytes]]:
    dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
    dense = dense.cpu().resolve_conj().resolve_neg().contiguous()
    try:
        yield from _array(dense.numpy())
    except TypeError:  # bfloat16 and the 8-bit floats, which numpy does not know
        yield from _header(str(dense.dtype), tuple(dense.shape))
        yield b"A", dense.reshape(-1).view(torch.uint8).numpy().tobytes()


def _array(value: np.ndarray[Any, Any]) -> Iterator[tuple[bytes, bytes]]:
    if value.dtype.hasobject:
        yield b"O", str(value.shape).encode()
        for item in value.ravel().tolist():
            yield from _walk(item)
        return
    little = np.ascontiguousarray(value, dtype=value.dtype.newbyteorder("<"))
    yield from _header(little.dtype.str, value.shape)
    yield b"A", little.tobytes()


def _header(dtype: str, shape: tuple[int, ...]) -> Iterator[tuple[bytes, bytes]]:
    yield b"T", dtype.encode()
    yield b"H", str(shape).encode()
