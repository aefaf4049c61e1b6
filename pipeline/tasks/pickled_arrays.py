"""Numpy arrays and plain containers out of pickles that others made, with nothing of what a pickle could run.

Two published formats are pickles: the python batches of CIFAR-10/100 and the label files of CIFAR-10N/100N
(`torch.save` of a dict of numpy arrays: a zip archive with a member `*/data.pkl`, or, from old versions of torch,
pickles one after the other). A pickle is a program that may call any importable name. The names in `ADMITTED` are
those that numpy arrays and byte strings are rebuilt with; whatever else a file asks for is refused before it is looked
up.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""What an old `torch.save` begins with, a pickle of its own; two more follow before the object."""

LARGEST_BYTES = 2 * 2**30


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


ADMITTED: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _bytes_of,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _array for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _from_buffer for core in ("core", "_core")},
    ("collections", "OrderedDict"): dict,
}


class _Arrays(pickle.Unpickler):
    """An unpickler that knows the names in `ADMITTED` alone."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"the name {module}.{name}")
        return ADMITTED[module, name]

    def persistent_load(self, _: Any) -> Any:
        raise pickle.UnpicklingError("a torch tensor")


def read_pickled(file: Path) -> dict[str, Any]:
    """The dict in a pickle, or in what `torch.save` wrote; keys as text.

    Raises:
        DataError: no such file, damaged, no dict, or more in it than arrays and plain containers.
    """
    if not file.is_file():
        raise DataError(f"expected a file at {file}, found none; mend the path")
    if file.stat().st_size > LARGEST_BYTES:
        raise DataError(f"expected at most {LARGEST_BYTES} bytes in {file.name}, got {file.stat().st_size}; check it")
    try:
        found = _object(file)
    except Exception as error:  # a damaged pickle fails in whatever way its instructions come to
        raise DataError(
            f"expected numpy arrays and plain containers in the pickle {file.name}, got "
            f"{type(error).__name__}: {error}; nothing else is read, for safety: get the file again, or save arrays"
        ) from error
    if not isinstance(found, dict):
        raise DataError(f"expected a dict in {file.name}, got {type(found).__name__}; use the right file")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


def _object(file: Path) -> Any:
    data = file.read_bytes()
    if zipfile.is_zipfile(io.BytesIO(data)):
        return _unpickled(io.BytesIO(_member(data)))
    stream = io.BytesIO(data)
    first = _unpickled(stream)
    if first != TORCH_MAGIC:
        return first
    _unpickled(stream)  # the protocol
    _unpickled(stream)  # sizes and byte order of the machine, which concern tensors
    return _unpickled(stream)


def _unpickled(stream: io.BytesIO) -> Any:
    return _Arrays(stream, encoding="latin1").load()  # python 2 wrote the batches of CIFAR


def _member(data: bytes) -> bytes:
    """The pickle inside a torch archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = [item for item in archive.infolist() if item.filename.split("/")[-1] == "data.pkl"]
        if len(names) != 1:
            raise ValueError(f"{len(names)} members data.pkl")
        if names[0].file_size > LARGEST_BYTES:
            raise ValueError(f"a member of {names[0].file_size} bytes")
        return archive.read(names[0])
