"""The plan: shards cover all rows once, and appending changes only what it must."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError, StoreError
from pipeline.shards import Plan, cut, sample, settled_rows

HASHES = st.lists(st.binary(min_size=1, max_size=4), max_size=60)
SIZES = st.integers(1, 20)


@given(HASHES, SIZES)
def test_shards_cover_all_rows_once_in_order(hashes, size):
    split = cut(hashes, size)
    covered = [row for shard in split.shards for row in range(shard.start, shard.stop)]
    assert covered == list(range(len(hashes))) and split.rows == len(hashes)
    assert all(shard.rows == size for shard in split.shards[:-1])
    assert all(0 < shard.rows <= size for shard in split.shards)
    names = [shard.name for shard in split.shards]
    assert names == sorted(set(names)) and all(split.shard(name).name == name for name in names)


@given(HASHES, st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=30), SIZES)
def test_appending_changes_only_new_shards_and_the_last_partial_one(hashes, more, size):
    before, after = cut(hashes, size), cut(hashes + more, size)
    whole = len(hashes) // size
    assert after.shards[:whole] == before.shards[:whole]
    assert all(new != old for new, old in zip(after.shards[whole:], before.shards[whole:], strict=False))
    assert after.content != before.content


@given(st.lists(st.binary(min_size=2, max_size=2), min_size=1, max_size=40), SIZES, st.data())
def test_altering_a_row_changes_the_content_of_its_shard_alone(hashes, size, data):
    row = data.draw(st.integers(0, len(hashes) - 1))
    altered = [*hashes[:row], hashes[row] + b"!", *hashes[row + 1 :]]
    before, after = cut(hashes, size), cut(altered, size)
    differing = [i for i, (a, b) in enumerate(zip(before.shards, after.shards, strict=True)) if a != b]
    assert differing == [row // size] and before.content != after.content


def test_where_one_row_ends_and_the_next_begins_counts():
    assert cut([b"ab", b"c"], 2).content != cut([b"a", b"bc"], 2).content


@given(
    st.lists(st.binary(min_size=1, max_size=4), unique=True, max_size=40),
    st.integers(0, 50),
    st.integers(-3, 3),
    st.randoms(),
)
def test_a_sample_does_not_depend_on_the_order_of_rows(hashes, count, seed, random):
    shuffled = random.sample(hashes, len(hashes))
    first, second = sample(hashes, count, seed), sample(shuffled, count, seed)
    assert {hashes[i] for i in first} == {shuffled[i] for i in second}
    assert len(first) == min(count, len(hashes)) and first == sorted(set(first))


def test_a_sample_depends_on_the_seed_and_takes_equal_rows_by_position():
    hashes = [bytes([i]) for i in range(100)]
    assert sample(hashes, 10, 0) != sample(hashes, 10, 1)
    assert sample([b"x"] * 5, 3, 0) == [0, 1, 2]


def test_a_larger_sample_holds_the_smaller_one():
    hashes = [bytes([i]) for i in range(100)]
    assert set(sample(hashes, 10, 0)) < set(sample(hashes, 20, 0))


def plan() -> Plan:
    splits = {"train": cut([b"a", b"b", b"c"], 2), "validation": cut([b"d"], 2), "query": cut([], 2)}
    return Plan(
        splits,
        ("no", "yes"),
        labelled=True,
        trains=False,
        shard_rows=2,
        truth=True,
        retired=(2,),
        data={"limit": 3},
        stamp={"sources": []},
    )


def test_a_plan_survives_its_file(tmp_path):
    path = tmp_path / "plan.json"
    for saved in (plan(), plan().without([0, 2], [2])):
        path.write_text(saved.save())
        assert Plan.load(path) == saved


def test_dropped_rows_are_in_no_shard_and_change_no_content():
    before, after = plan(), plan().without([2, 1], [1])
    shards = after.splits["train"].shards
    assert after.retired == (1, 2)
    assert [shard.positions for shard in shards] == [[0], [2]] and [shard.rows for shard in shards] == [1, 1]
    assert [shard.content for shard in shards] == [shard.content for shard in before.splits["train"].shards]
    assert shards[0].plain() == {**before.splits["train"].shards[0].plain(), "dropped": [1]}
    assert after.without([], []) == before.without([], [])


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2}', '{"format": 3}', '{"format": 3, "splits": {"train": 3}}'],
)
def test_what_is_no_plan_is_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(
        StoreError,
        match=re.escape(f"expected the plan of a run at {path}, got none that can be read; run `lowland run`"),
    ):
        Plan.load(path)


def test_a_missing_plan_and_a_plan_of_another_format_are_refused(tmp_path):
    path = tmp_path / "plan.json"
    with pytest.raises(StoreError, match="expected the plan"):
        Plan.load(path)
    path.write_text(json.dumps({**json.loads(replace(plan()).save()), "format": 0}))
    with pytest.raises(StoreError, match="expected the plan"):
        Plan.load(path)


def test_a_shard_that_is_not_planned_is_named():
    with pytest.raises(DataError, match="expected a shard up to 00001, got '00002'"):
        plan().splits["train"].shard("00002")
    with pytest.raises(DataError, match="expected a shard up to none, got '00000'"):
        plan().splits["query"].shard("00000")


def test_a_dearer_model_has_smaller_shards():
    sizes = [settled_rows(operations) for operations in (0, 10**6, 10**7, 10**8, 10**9, 10**13)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 262144 and sizes[-1] == 256
    assert all(size.bit_count() == 1 for size in sizes) and len(set(sizes)) > 3
