"""Rows taken over from an older store: cut into windows, merged in order, known by content and by code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.codec import fit_codec
from pipeline.steps import reuse


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 7), st.integers(1, 20))
def test_windows_cover_all_rows_once_with_full_batches(fresh, size, most):
    parts = list(reuse.windows(np.array(fresh, bool), size, max(size, most)))
    assert [row for part in parts for row in range(part.start, part.stop)] == list(range(len(fresh)))
    counts = [sum(fresh[part]) for part in parts]
    assert all(count <= size for count in counts)
    assert all(part.stop - part.start <= max(size, most) for part in parts)
    short = [part for part, count in zip(parts[:-1], counts[:-1], strict=True) if count < size]
    assert all(part.stop - part.start == max(size, most) for part in short)


def test_a_shard_that_is_all_new_is_cut_as_ever():
    parts = list(reuse.windows(np.ones(10, bool), 4, 10**6))
    assert [(part.start, part.stop) for part in parts] == [(0, 4), (4, 8), (8, 10)]


def test_captured_and_copied_rows_stand_in_order():
    fresh = np.array([False, True, True, False])
    new, old = {"a": np.array([[2], [3]])}, {"a": np.array([[1], [4]])}
    assert reuse.merged(new, old, fresh)["a"].tolist() == [[1], [2], [3], [4]]
    assert reuse.merged(None, old, fresh) is old and reuse.merged(new, None, fresh) is new


def test_a_row_that_one_of_two_stores_lacks_is_captured_for_both():
    hashes = np.arange(48, dtype=np.uint8).reshape(3, 16)
    first, second = ({bytes(hashes[i]): at for i, at in rows} for rows in ([(0, 5), (1, 6)], [(1, 0), (2, 1)]))
    stores = [reuse.Older(None, None, at) for at in (first, second)]
    assert reuse.found_in(stores, hashes).tolist() == [[-1, 6, -1], [-1, 0, -1]]
    assert (reuse.found_in([stores[0], None], hashes) == -1).all()
    assert reuse.found_in(stores, hashes[:0]).shape == (2, 0)


@pytest.mark.parametrize("encoding", ["mixed", "int8", "bf16", "float32"])
@pytest.mark.parametrize("shape", [(6, 40), (6, 3, 40)])
def test_codes_are_known_by_every_byte_that_decodes_them(rng, encoding, shape):
    rows = rng.normal(size=shape).astype(np.float32)
    codec = fit_codec(encoding, rows.reshape(-1, 40))
    stored = codec.encode(rows).columns()
    before = reuse.code_hashes(stored)
    assert reuse.code_hashes({name: part[:0] for name, part in stored.items()}).shape == (0,)
    assert before.shape == (6,) and len(set(before.tolist())) == 6
    assert np.array_equal(before[[4, 2]], reuse.code_hashes({name: part[[4, 2]] for name, part in stored.items()}))
    for name, part in stored.items():
        if name == "row_scale" and encoding in ("bf16", "float32"):
            continue
        other = {**stored, name: part.copy()}
        other[name].view(np.uint8).reshape(6, -1)[3, 0] ^= 1
        assert (reuse.code_hashes(other) == before).tolist() == [True, True, True, False, True, True]
