"""Arrays, tensors and plain containers out of pickles that others made, with nothing of what a pickle could run.

Two published formats are pickles: the python batches of CIFAR-10/100 and the label files of CIFAR-10N/100N
(`torch.save` of a dict of numpy arrays: a zip archive with a member `*/data.pkl`, or, from old versions of torch,
pickles one after the other). A pickle is a program that may call any importable name. The names in `ADMITTED` are
those that numpy arrays, byte strings and torch's plain tensors are rebuilt with; whatever else a file asks for is
refused before it is looked up. Tensors come as numpy arrays: their values lie beside the pickle, in `*/data/KEY` of the
archive, or at the end of an old file.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What an old `torch.save` begins with, a pickle of its own; two more follow before the object."""

LARGEST_BYTES = 2 * 2**30
COUNT_BYTES = 8
"""In an old file, before the values of each tensor."""


def _bytes_of(text: str, encoding: str) -> bytes:
    """`codecs.encode` for the one purpose that pickles of bytes have."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _array(kind: Any, shape: Any, code: Any) -> np.ndarray[Any, Any]:
    """An array to be filled by the pickle's next instruction; its own `shape` is (0,) in every honest file."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array of another kind than numpy makes")
    return np.ndarray((0,), _dtype(code.decode() if isinstance(code, bytes) else code))


def _dtype(code: Any, *rest: Any) -> np.dtype[Any]:
    """A dtype of plain numbers or text; arrays of objects would carry anything."""
    made = np.dtype(code.decode() if isinstance(code, bytes) else code)
    if made.kind not in "biufSU":
        raise pickle.UnpicklingError(f"an array of {made}")
    return made


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(data, dtype).reshape(shape, order="F" if order == "F" else "C")


def _scalar(dtype: np.dtype[Any], data: Any) -> Any:
    return np.frombuffer(data.encode("latin1") if isinstance(data, str) else data, dtype)[0]


def _tensor(storage: Any, start: int, shape: Sequence[int], strides: Sequence[int], *_: Any) -> np.ndarray[Any, Any]:
    """A tensor as a view of its values, which lie side by side: no pickle can make it look beyond them.

    Strides count numbers, not bytes.
    """
    if type(storage) is not np.ndarray or storage.ndim != 1 or not storage.flags.c_contiguous:
        raise pickle.UnpicklingError("a tensor of something else than its values")
    last = start + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    count = math.prod(shape, start=1)
    if min(start, *shape, *strides, 0) < 0 or count > len(storage) or (count and last >= len(storage)):
        raise pickle.UnpicklingError("a tensor beyond its values")
    return np.lib.stride_tricks.as_strided(storage[start:], shape, [storage.itemsize * stride for stride in strides])


ADMITTED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _bytes_of,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("collections", "OrderedDict"): dict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    **{("torch", f"{name}Storage"): np.dtype(code) for name, code in {
        "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?", "Float": "<f4",
        "Double": "<f8"}.items()},
}  # fmt: skip

Storage = Callable[[np.dtype[Any], str, int], np.ndarray[Any, Any]]
"""Gives the values of a tensor, [n], by their type, key and number."""


class _Arrays(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` alone, and where the values of tensors are."""

    def __init__(self, stream: io.BytesIO, storage: Storage | None) -> None:
        super().__init__(stream, encoding="latin1")  # python 2 wrote the batches of CIFAR
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return ADMITTED[module, name]

    def persistent_load(self, what: Any) -> np.ndarray[Any, Any]:
        if self._storage is None or what[0] != "storage" or not isinstance(what[1], np.dtype):
            raise pickle.UnpicklingError("a torch tensor without values, or of another kind")
        return self._storage(what[1], what[2], what[4])


def read_pickled(file: Path) -> dict[str, Any]:
    """The dict in a pickle, or in what `torch.save` wrote; keys as text.

    Raises:
        DataError: no such file, damaged, no dict, or more in it than arrays, tensors and plain containers.
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; mend the path")
    if file.stat().st_size > LARGEST_BYTES:
        raise DataError(f"expected at most {LARGEST_BYTES} bytes in {file.name}, got {file.stat().st_size}; check it")
    try:
        found = _object(file)
    except Exception as error:  # a damaged pickle fails in whatever way its instructions come to
        raise DataError(
            f"expected arrays, tensors and plain containers in the pickle {file.name}, got "
            f"{type(error).__name__}: {error}; nothing else is read, for safety: get the file again, or save arrays"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"expected a dict in {file.name}, got {type(found).__name__}; use the right file")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


def _object(file: Path) -> Any:
    data = file.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _of_archive(data)
    stream = io.BytesIO(data)
    first = _unpickled(stream)
    if first != TORCH_MAGIC:
        return first
    _unpickled(stream)  # the protocol
    _unpickled(stream)  # sizes and byte order of the machine
    return _with_values_behind(stream, len(data))


def _unpickled(stream: io.BytesIO, storage: Storage | None = None) -> Any:
    return _Arrays(stream, storage).load()


def _with_values_behind(stream: io.BytesIO, size: int) -> Any:
    """An object whose tensors are filled from the rest of an old file: keys, then number and values of each."""
    storages: dict[str, np.ndarray[Any, Any]] = {}

    def storage(kind: np.dtype[Any], key: str, count: int) -> np.ndarray[Any, Any]:
        if count * kind.itemsize > size:
            raise pickle.UnpicklingError(f"{count} values of a tensor in {size} bytes")
        return storages.setdefault(key, np.zeros(count, kind))

    found = _unpickled(stream, storage)
    for key in _unpickled(stream) if storages else ():
        values = storages[key]
        stream.seek(COUNT_BYTES, io.SEEK_CUR)
        values[:] = np.frombuffer(stream.read(values.nbytes), values.dtype)
    return found


def _of_archive(data: bytes) -> Any:
    """The object in a torch archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{len(names)} members data.pkl")
        folder = names[0].removesuffix("data.pkl")

        def storage(kind: np.dtype[Any], key: str, count: int) -> np.ndarray[Any, Any]:
            return np.frombuffer(_member(archive, f"{folder}data/{key}"), kind, count)

        return _unpickled(io.BytesIO(_member(archive, names[0])), storage)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST_BYTES:
        raise ValueError(f"a member of {size} bytes")
    return archive.read(name)
