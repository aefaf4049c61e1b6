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
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import DataError

DIGEST_BYTES = 16
LENGTH = struct.Struct("<Q")


def digest(row: Any) -> bytes:
    """16 bytes that name the content of `row`.

    Args:
        row: tensors, arrays, numbers, strings, bytes, None, dataclasses, and tuples, lists and dicts of them, nested;
            anything else that numpy takes as an array of numbers (an image of Pillow's, say).

    Raises:
        DataError: the row holds something that has no canonical bytes.
    """
    spelt: list[bytes] = []
    _walk(row, spelt)
    return hashlib.blake2b(b"".join(spelt), digest_size=DIGEST_BYTES).digest()


def _put(spelt: list[bytes], tag: bytes, data: bytes) -> None:
    """One part: tag, length, bytes."""
    spelt += tag, LENGTH.pack(len(data)), data


def _walk(value: Any, spelt: list[bytes]) -> None:
    """Spell out each part, depth first."""
    if isinstance(value, Tensor):
        _tensor(value, spelt)
    elif isinstance(value, (np.ndarray, np.generic)):
        _array(np.asarray(value), spelt)
    elif isinstance(value, (tuple, list)):
        _put(spelt, b"S", str(len(value)).encode())
        for item in value:
            _walk(item, spelt)
    elif isinstance(value, Mapping):
        _put(spelt, b"D", str(len(value)).encode())
        for key in sorted(value, key=digest):
            _walk(key, spelt)
            _walk(value[key], spelt)
    elif is_dataclass(value) and not isinstance(value, type):
        _put(spelt, b"C", type(value).__name__.encode())
        for field in fields(value):
            _put(spelt, b"K", field.name.encode())
            _walk(getattr(value, field.name), spelt)
    else:
        _put(spelt, *_scalar(value))


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
    spelt: list[bytes] = []
    _array(array, spelt)
    return b"A", b"".join(spelt[2::3])


def _tensor(value: Tensor, spelt: list[bytes]) -> None:
    try:
        return _array(value.numpy(), spelt)
    except (TypeError, RuntimeError):  # not one that numpy could show as it is
        dense = value.detach().to_dense() if value.layout is not torch.strided else value.detach()
        dense = dense.cpu().resolve_conj().resolve_neg().contiguous()
    try:
        _array(dense.numpy(), spelt)
    except TypeError:  # bfloat16 and the 8-bit floats, which numpy does not know
        _header(str(dense.dtype), tuple(dense.shape), spelt)
        _put(spelt, b"A", dense.reshape(-1).view(torch.uint8).numpy().tobytes())


def _array(value: np.ndarray[Any, Any], spelt: list[bytes]) -> None:
    if value.dtype.hasobject:
        _put(spelt, b"O", str(value.shape).encode())
        for item in value.ravel().tolist():
            _walk(item, spelt)
        return
    little = np.asarray(value, dtype=value.dtype.newbyteorder("<"))
    _header(little.dtype.str, value.shape, spelt)
    _put(spelt, b"A", little.tobytes())


def _header(dtype: str, shape: tuple[int, ...], spelt: list[bytes]) -> None:
    _put(spelt, b"T", dtype.encode())
    _put(spelt, b"H", str(shape).encode())
