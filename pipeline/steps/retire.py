"""Retire and restore train rows, and mark retired ones as gone from the stores. In force at once. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.steps.tombstones import Tombstone, applied, read, resolve, stamp, write
from pipeline.storage.artefact import write_whole
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

CONTENT_LETTERS = 32
"""Hexadecimal letters of a content hash."""


def change(layout: Layout, tombstones: Iterable[Tombstone]) -> Plan:
    """Put the list in force at once: what answers reads the plan. Returns the plan.

    Raises:
        DataError: no row would be left.
    """
    ordered = sorted(tombstones, key=lambda each: (each.row, each.content))
    before = layout.tombstones.read_text(encoding="utf-8") if layout.tombstones.exists() else None
    write(layout, ordered)
    try:
        plan, _ = applied(layout, Plan.load(layout.plan), contents(layout))
    except DataError:
        layout.tombstones.unlink() if before is None else write_whole(layout.tombstones, before)
        raise
    plan = replace(plan, stamp={**plan.stamp, "retired": stamp(layout)})
    write_whole(layout.plan, plan.save())
    return plan


def contents(layout: Layout) -> list[str]:
    """Content hash of every train row of the plan, in hexadecimal."""
    _, arrays = open_arrays(layout.hashes, "rows")
    return [bytes(row).hex() for row in arrays.read("train")]


def retire(layout: Layout, rows: Iterable[int]) -> int:
    """Lay tombstones on these rows; returns how many are new.

    Raises:
        DataError: a position outside the train rows, or no row would be left.
    """
    hashes = contents(layout)
    here, lost = resolve(read(layout), hashes)
    lying = {each.row for each in here}
    new = [Tombstone(row, hashes[row]) for row in dict.fromkeys(_checked(rows, len(hashes))) if row not in lying]
    change(layout, [*here, *lost, *new])
    return len(new)


def restore(layout: Layout, rows: Iterable[int] | None) -> int:
    """Take the tombstones from these rows, or from all; returns how many there were.

    Raises:
        DataError: one of them is not retired.
    """
    hashes = contents(layout)
    here, lost = resolve(read(layout), hashes)
    if rows is None:
        change(layout, [])
        return len(here) + len(lost)
    chosen = set(_checked(rows, len(hashes)))
    strangers = sorted(chosen - {each.row for each in here})
    if strangers:
        raise DataError(
            f"expected retired rows to restore, got row {strangers[0]}, which is not; see `lowland retire RUN`"
        )
    change(layout, [*(each for each in here if each.row not in chosen), *lost])
    return len(chosen)


def compact(layout: Layout) -> Plan:
    """Mark all retired rows as dropped from the stores; `lowland run` rewrites the shards that hold them."""
    here, lost = resolve(read(layout), contents(layout))
    return change(layout, [*(replace(each, compacted=True) for each in here), *lost])


def parse(words: Iterable[str], hashes: Sequence[str]) -> list[int]:
    """Positions from words: `17`, `20-29`, or the content hash of a row (all rows of that content).

    Raises:
        DataError: another word, or a hash that no row has.
    """
    found: list[int] = []
    for word in words:
        first, dash, last = word.partition("-")
        if len(word) == CONTENT_LETTERS:  # before numbers: a hash may have no other letters than digits
            rows = [position for position, content in enumerate(hashes) if content == word.lower()]
            if not rows:
                raise DataError(
                    f"expected the content hash of a train row, got {word}, which none has; see scores.parquet"
                )
            found += rows
        elif first.isdecimal() and (last.isdecimal() if dash else True):
            found += range(int(first), int(last if dash else first) + 1)
        else:
            raise DataError(
                f"expected rows such as 3,17,20-29 or content hashes of 32 letters, got {word!r}; mend that"
            )
    return found


def _checked(rows: Iterable[int], count: int) -> Iterable[int]:
    for row in rows:
        if not 0 <= row < count:
            raise DataError(f"expected train rows from 0 to {count - 1}, got {row}; name some of these")
        yield row
