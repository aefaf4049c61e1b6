"""Arrays: what is written is read back, and a damaged chunk is refused rather than read."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.storage import arrays as module
from pipeline.storage.arrays import Arrays, ArrayWriter, write_arrays
from pipeline.storage.picking import plain


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of 64 bytes: 4 rows of 4 float32."""
    monkeypatch.setattr(module, "CHUNK_BYTES", 64)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(1,), (5, 4), (9, 3, 2), (0, 4), (3, 0)])
def test_every_type_and_shape_comes_back(tmp_path, rng, dtype, shape):
    values = (rng.normal(size=shape) * 50).astype(dtype)
    write_arrays(tmp_path / "x.zarr", {"a": values})
    back = Arrays(tmp_path / "x.zarr").read("a")
    assert back.dtype == values.dtype and back.shape == values.shape and np.array_equal(back, values)


@given(parts=st.lists(st.integers(0, 11), min_size=1, max_size=8))
def test_appending_in_any_pieces_gives_the_same_array(tmp_path_factory, parts):
    total = sum(parts)
    values = np.arange(total * 4, dtype=np.float32).reshape(total, 4)
    directory = tmp_path_factory.mktemp("pieces") / "x.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK_BYTES", 64)
        with ArrayWriter(directory) as writer:
            for part in np.split(values, np.cumsum(parts)[:-1]):
                writer.append("a", part, total)
        assert np.array_equal(Arrays(directory).read("a"), values)


def test_rows_are_read_across_chunk_boundaries(tmp_path, small_chunks, rng):
    values = rng.normal(size=(23, 4)).astype(np.float32)
    write_arrays(tmp_path / "x.zarr", {"a": values})
    assert len(list((tmp_path / "x.zarr/a/c").iterdir())) == 6
    arrays = Arrays(tmp_path / "x.zarr")
    assert np.array_equal(arrays.read("a", slice(3, 18)), values[3:18])
    picked = np.array([0, 3, 4, 22])
    assert np.array_equal(arrays.read("a", picked), values[picked])
    assert np.array_equal(arrays.read("a", picked[::-1].copy()), values[picked[::-1]])
    assert arrays.read("a", np.zeros(0, np.int64)).shape == (0, 4)
    assert arrays.rows("a") == 23 and "a" in arrays and "b" not in arrays and arrays.names() == ["a"]


def test_chunks_of_zeros_are_written(tmp_path, small_chunks):
    write_arrays(tmp_path / "x.zarr", {"a": np.zeros((12, 4), np.float32)})
    assert sorted(path.name for path in (tmp_path / "x.zarr/a/c").iterdir()) == ["0", "1", "2"]


@pytest.mark.parametrize("position", [0, 10, -1])
def test_a_flipped_byte_in_a_chunk_is_refused_and_the_array_named(tmp_path, small_chunks, rng, position):
    write_arrays(tmp_path / "x.zarr", {"a": rng.normal(size=(12, 4)).astype(np.float32), "b": np.arange(3)})
    chunk = next(path for path in (tmp_path / "x.zarr/a/c").rglob("1*") if path.is_file() or path.is_dir())
    chunk = chunk if chunk.is_file() else next(path for path in chunk.rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[position] ^= 1
    chunk.write_bytes(content)
    arrays = Arrays(tmp_path / "x.zarr")
    message = rf"^expected {re.escape(str(tmp_path))}/x.zarr/a as it was written, got a damaged chunk \(.*\); run `lowland verify`"
    for rows in (None, slice(4, 6), np.array([5])):
        with pytest.raises(StoreError, match=message):
            arrays.read("a", rows)
    assert arrays.read("a", slice(0, 4)).shape == (4, 4) and arrays.read("b").tolist() == [0, 1, 2]


def test_a_chunk_that_is_cut_short_is_refused(tmp_path, rng):
    write_arrays(tmp_path / "x.zarr", {"a": rng.normal(size=(12, 4))})
    chunk = next(path for path in (tmp_path / "x.zarr/a/c").rglob("*") if path.is_file())
    for kept in (100, 3, 0):
        chunk.write_bytes(chunk.read_bytes()[:kept])
        with pytest.raises(StoreError, match="got a damaged chunk"):
            Arrays(tmp_path / "x.zarr").read("a")


def test_fewer_or_more_rows_than_announced_are_a_fault(tmp_path):
    with pytest.raises(ValueError, match="expected 3 rows of a, got 2"), ArrayWriter(tmp_path / "x.zarr") as writer:
        writer.append("a", np.zeros((2, 4)), total=3)
    with pytest.raises(ValueError, match="expected 3 rows of a, got 4"), ArrayWriter(tmp_path / "y.zarr") as writer:
        writer.append("a", np.zeros((2, 4)), total=3)
        writer.append("a", np.zeros((2, 4)), total=3)


def test_an_error_inside_the_block_is_the_one_that_is_raised(tmp_path):
    with pytest.raises(KeyError, match="mine"), ArrayWriter(tmp_path / "x.zarr") as writer:
        writer.append("a", np.zeros((2, 4)), total=3)
        raise KeyError("mine")


def test_an_array_that_is_not_there_is_named_with_those_that_are(tmp_path):
    write_arrays(tmp_path / "x.zarr", {"b": np.zeros(1), "a": np.zeros(1)})
    with pytest.raises(StoreError, match=r"expected an array 'c' in .*x.zarr, got a, b"):
        Arrays(tmp_path / "x.zarr").read("c")


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"zarr_format": 3, "node_type": "array"}'])
def test_what_is_no_store_is_refused(tmp_path, content):
    directory = tmp_path / "x.zarr"
    if content is not None:
        directory.mkdir()
        (directory / "zarr.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"expected a store at .*x.zarr, got none that opens; see `lowland verify`"):
        Arrays(directory)


# -- single rows -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int64", "float32", "float64", "bool"])
@pytest.mark.parametrize("shape", [(1,), (9,), (11, 4), (9, 3, 2)])
def test_rows_are_picked_as_they_are_read(tmp_path, rng, small_chunks, dtype, shape):
    values = (rng.normal(size=shape) * 50).astype(dtype)
    write_arrays(tmp_path / "x.zarr", {"a": values})
    store = Arrays(tmp_path / "x.zarr")
    assert plain(tmp_path / "x.zarr" / "a") is not None  # the writer's own layout
    for positions in (np.arange(shape[0]), rng.integers(0, shape[0], 30), np.zeros(0, np.int64)):
        picked = store.pick("a", positions)
        assert picked.dtype == values.dtype and np.array_equal(picked, values[positions])
        assert np.array_equal(store.read("a", positions), picked)


def test_arrays_of_another_layout_are_picked_from_all_the_same(tmp_path, rng):
    values = rng.normal(size=(20, 6))
    group = zarr.open_group(str(tmp_path / "x.zarr"), mode="w", zarr_format=3)
    group.create_array("compressed", data=values, chunks=(4, 6))
    group.create_array("cut", data=values, chunks=(4, 3), compressors=None)
    group.create_array("sharded", data=values, chunks=(2, 6), shards=(10, 6), compressors=None)
    for name in ("compressed", "cut", "sharded"):
        assert plain(tmp_path / "x.zarr" / name) is None
        assert np.array_equal(Arrays(tmp_path / "x.zarr").pick(name, np.array([19, 0, 7])), values[[19, 0, 7]])


def test_picking_from_what_is_missing_or_too_short_is_refused(tmp_path, small_chunks):
    write_arrays(tmp_path / "x.zarr", {"a": np.ones((9, 4), np.float32)})
    (tmp_path / "x.zarr/a/c/0/0").write_bytes(b"short")
    (tmp_path / "x.zarr/a/c/1/0").unlink()
    for row in (0, 5):
        with pytest.raises(StoreError, match="as it was written, got a damaged chunk .*; run `lowland verify` to see "):
            Arrays(tmp_path / "x.zarr").pick("a", np.array([row]))
    with pytest.raises(StoreError, match="expected an array 'b' in "):
        Arrays(tmp_path / "x.zarr").pick("b", np.array([0]))
