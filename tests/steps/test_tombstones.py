"""Tombstones follow the content of a row, and lapse with it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError, StoreError
from pipeline.steps.retire import parse
from pipeline.steps.tombstones import Tombstone, read, resolve, stamp, write
from pipeline.storage.layout import Layout


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_after_a_shuffle_as_many_rows_of_each_content_are_retired(contents, chance):
    stones = [Tombstone(i, content) for i, content in enumerate(contents) if chance.random() < 0.5]
    shuffled = random.Random(0).sample(contents, len(contents))
    found, lost = resolve(stones, shuffled)
    assert not lost and len({each.row for each in found}) == len(stones)
    assert all(shuffled[each.row] == each.content for each in found)
    assert sorted(each.content for each in found) == sorted(each.content for each in stones)


def test_a_row_that_stays_keeps_its_tombstone_and_its_copy_goes_free():
    found, lost = resolve([Tombstone(1, "a")], ["a", "a", "a"])
    assert [each.row for each in found] == [1] and not lost


def test_a_changed_row_takes_part_again():
    found, lost = resolve([Tombstone(0, "a"), Tombstone(1, "b", compacted=True)], ["x", "b"])
    assert found == [Tombstone(1, "b", compacted=True)] and lost == [Tombstone(0, "a")]


def test_the_list_survives_its_file_and_stamps_it(tmp_path):
    layout, stones = Layout(tmp_path), [Tombstone(1, "a"), Tombstone(5, "b", compacted=True)]
    assert read(layout) == [] and stamp(layout) == ""
    write(layout, stones)
    assert read(layout) == stones
    first = stamp(layout)
    write(layout, stones[:1])
    assert stamp(layout) not in ("", first)
    write(layout, [])
    assert not layout.tombstones.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"format": 2, "rows": []}', '{"format": 1, "rows": [{"row": "x"}]}'])
def test_a_damaged_list_is_refused(tmp_path, text):
    layout = Layout(tmp_path)
    layout.tombstones.write_text(text)
    with pytest.raises(
        StoreError, match=r"expected a list of retired rows in .*retired\.json, got none that can be re"
    ):
        read(layout)


def test_rows_are_named_by_position_range_or_content():
    hashes = ["0" * 32, "a" * 32, "0" * 32]
    assert parse(["1", "2-4", "0" * 32, "A" * 32], hashes) == [1, 2, 3, 4, 0, 2, 1]
    with pytest.raises(DataError, match="expected rows such as 3,17,20-29 or content hashes of 32 letters, got 'x'"):
        parse(["x"], hashes)
    with pytest.raises(DataError, match="expected the content hash of a train row, got ffff"):
        parse(["f" * 32], hashes)
