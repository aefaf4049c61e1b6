"""Tables in Parquet. The only module that knows pyarrow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError


def write_table(path: Path, columns: Mapping[str, Any], notes: Mapping[str, str]) -> None:
    """Write columns (arrays or lists of one length) with notes in the header, such as the sign of a score."""
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(table.replace_schema_metadata(dict(notes)), path)


def read_table(path: Path, columns: list[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a table, as lists.

    Raises:
        StoreError: it cannot be read, or lacks a column.
    """
    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            if columns is not None and not set(columns) <= set(known):
                raise StoreError(
                    f"expected the columns {', '.join(columns)} in {path}, got {', '.join(known)}; run `lowland run`"
                )
            table: dict[str, list[Any]] = file.read(columns=columns).to_pydict()
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"expected a table at {path}, got none that opens; see `lowland verify`") from error
    return table
