"""Rows that stand in more than one split, by content: an evaluation on them flatters. Needs no torch."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

SPLITS = ("train", "validation", "query")
NAMED = 3
"""Pairs that a line names."""


def shared_rows(layout: Layout) -> list[str]:
    """A sentence for each two splits that share rows, input and label alike; none where all are disjoint."""
    _, hashes = open_arrays(layout.hashes, "rows")
    where: dict[str, dict[bytes, list[int]]] = {}
    for split in SPLITS:
        where[split] = defaultdict(list)
        for i, row in enumerate(hashes.read(split)):
            where[split][bytes(row)].append(i)
    lines = []
    for a, b in combinations(SPLITS, 2):
        both = [content for content in where[a] if content in where[b]]
        if both:
            some = ", ".join(f"{a} {where[a][content][0]} = {b} {where[b][content][0]}" for content in both[:NAMED])
            lines.append(f"{len(both)} rows of {a} and {b} are the same ({some}): evaluation on them flatters")
    return lines
