"""Tables in Parquet. The only module that knows pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError

Array = np.ndarray[Any, Any]


def write_table(path: Path, columns: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """Write columns (arrays or lists of one length) with notes in the header, such as the sign of a score.

    An array [n, C] is a column of lists.
    """
    table = pa.table({name: _column(values) for name, values in columns.items()})
    pq.write_table(table.replace_schema_metadata(dict(notes)), path)


def _column(values: Any) -> pa.Array:
    if not isinstance(values, np.ndarray) or values.ndim == 1:
        return pa.array(values)
    rows, width = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(rows + 1) * width, pa.int32()), pa.array(values.ravel()))


def read_table(path: Path, columns: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a table, as lists.

    Raises:
        StoreError: it cannot be read, or lacks a column.
    """
    read: dict[str, list[Any]] = _read(path, columns).to_pydict()
    return read


def read_arrays(path: Path, columns: list[str]) -> dict[str, Array]:
    """Columns of numbers, [n], or [n, C] where each row has C of them.

    Raises:
        StoreError: it cannot be read, or lacks a column.
    """
    table = _read(path, columns)
    return {name: _array(table.column(name).combine_chunks()) for name in columns}


def _array(column: pa.Array) -> Array:
    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            if columns is not None and not set(columns) <= set(known):
                raise StoreError(
                    f"expected the columns {', '.join(columns)} in {path}, got {', '.join(known)}; run `lowland run`"
                )
            return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"expected a table at {path}, got none that opens; see `lowland verify`") from error
