"""Tables: values, missing values and notes come back; what is no table is refused."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StoreError
from pipeline.storage.tables import read_arrays, read_table, write_table


def test_columns_come_back_in_order_with_missing_values(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(
        path,
        {"row": np.arange(3), "label": ["a", None, "c"], "score": np.array([1.5, np.inf, -0.0])},
        {"score": "signed"},
    )
    table = read_table(path)
    assert list(table) == ["row", "label", "score"]
    assert table["row"] == [0, 1, 2] and table["label"] == ["a", None, "c"] and table["score"] == [1.5, np.inf, 0.0]
    assert read_table(path, ["score"]) == {"score": table["score"]}
    assert pq.read_schema(path).metadata[b"score"] == b"signed"


def test_nan_stays_nan_and_is_no_missing_value(tmp_path):
    write_table(tmp_path / "t.parquet", {"score": np.array([np.nan])}, {})
    assert np.isnan(read_table(tmp_path / "t.parquet")["score"][0])


def test_numbers_come_back_as_arrays_many_a_row(tmp_path):
    scores = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])
    write_table(tmp_path / "x.parquet", {"row": np.array([7, 8]), "s": scores}, {})
    found = read_arrays(tmp_path / "x.parquet", ["s", "row"])
    np.testing.assert_array_equal(found["s"], scores)
    assert found["row"].tolist() == [7, 8] and read_table(tmp_path / "x.parquet")["s"][1] == [4, 5, 6]
    with pytest.raises(StoreError, match="expected the columns label_codes in"):
        read_arrays(tmp_path / "x.parquet", ["label_codes"])


def test_a_table_may_be_empty(tmp_path):
    write_table(tmp_path / "t.parquet", {"row": np.zeros(0, np.int64)}, {})
    assert read_table(tmp_path / "t.parquet") == {"row": []}


@pytest.mark.parametrize("content", [None, b"", b"PAR1 but no table"])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "t.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreError, match=r"expected a table at .*t.parquet, got none that opens; see `lowland verify`"):
        read_table(path)


def test_a_column_that_is_not_there_is_refused(tmp_path):
    write_table(tmp_path / "t.parquet", {"row": [1]}, {})
    with pytest.raises(StoreError, match=r"expected the columns row, score in .*t.parquet, got row; run `lowland run`"):
        read_table(tmp_path / "t.parquet", ["row", "score"])
