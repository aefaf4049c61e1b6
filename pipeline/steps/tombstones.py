"""Tombstones: train rows that the user has retired, kept in `retired.json` of the run.

A row's id is its position and the hash of its content. A tombstone follows the content: where the position holds
another row now, it lies on the first other row of that content that no tombstone lies on yet; where no row has that
content any more (it was relabelled, mended or deleted), it lies on none, and says so. A row that was changed is another
row, and takes part again. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from pipeline.errors import DataError, StoreError
from pipeline.provenance import digest_value
from pipeline.shards import Plan
from pipeline.storage.artefact import write_whole
from pipeline.storage.layout import Layout

FORMAT = 1


@dataclass(frozen=True)
class Tombstone:
    """A retired row.

    Attributes:
        row: its position when it was retired, or where it was found since.
        content: hash of its content, in hexadecimal.
        compacted: whether the stores were rewritten without it.
    """

    row: int
    content: str
    compacted: bool = False


def read(layout: Layout) -> list[Tombstone]:
    """The tombstones of a run, none where it has no list.

    Raises:
        StoreError: the list is damaged.
    """
    if not layout.tombstones.exists():
        return []
    try:
        value = json.loads(layout.tombstones.read_text(encoding="utf-8"))
        if value["format"] != FORMAT:
            raise ValueError("format")
        return [Tombstone(int(row["row"]), str(row["content"]), bool(row["compacted"])) for row in value["rows"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"expected a list of retired rows in {layout.tombstones}, got none that can be read; mend it, or delete it "
            "to restore all rows"
        ) from error


def stamp(layout: Layout) -> str:
    """Digest of the list, for the plan that was made from it; empty without tombstones."""
    tombstones = read(layout)
    return digest_value([asdict(tombstone) for tombstone in tombstones]) if tombstones else ""


def resolve(tombstones: Sequence[Tombstone], hashes: Sequence[str]) -> tuple[list[Tombstone], list[Tombstone]]:
    """Tombstones at the positions of the rows that they lie on now, and those that lie on none.

    >>> resolve([Tombstone(0, "a"), Tombstone(2, "c"), Tombstone(3, "x")], ["b", "a", "c"])
    ([Tombstone(row=2, content='c', compacted=False), Tombstone(row=1, content='a', compacted=False)], \
[Tombstone(row=3, content='x', compacted=False)])
    """
    stay = [each for each in tombstones if each.row < len(hashes) and hashes[each.row] == each.content]
    taken = {each.row for each in stay}
    places: dict[str, list[int]] = {}
    moving = [each for each in tombstones if each not in stay]
    wanted = {each.content for each in moving}
    for position, content in enumerate(hashes if moving else ()):
        if content in wanted and position not in taken:
            places.setdefault(content, []).append(position)
    found, lost = list(stay), []
    for each in moving:
        where = places.get(each.content)
        found.append(replace(each, row=where.pop(0))) if where else lost.append(each)
    return found, lost


def applied(layout: Layout, plan: Plan, hashes: Sequence[str]) -> tuple[Plan, list[Tombstone]]:
    """The plan with the run's tombstones laid on its rows, and the tombstones that lie on none."""
    found, lost = resolve(read(layout), hashes)
    retired = [each.row for each in found]
    if len(retired) >= len(hashes):
        raise DataError(
            f"expected at least one train row that is not retired, got all {len(hashes)} in {layout.tombstones}; "
            "restore some by `lowland retire --restore`"
        )
    return plan.without(retired, [each.row for each in found if each.compacted]), lost


def write(layout: Layout, tombstones: Sequence[Tombstone]) -> None:
    """Keep the list, or none where it is empty."""
    if tombstones:
        rows = [asdict(tombstone) for tombstone in tombstones]
        write_whole(layout.tombstones, json.dumps({"format": FORMAT, "rows": rows}, indent=1))
    else:
        layout.tombstones.unlink(missing_ok=True)
