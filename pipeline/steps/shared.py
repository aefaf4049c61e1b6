"""Inputs that stand in more than one split, by content: an evaluation on them flatters. Needs no torch.

Inputs are compared without labels: a wrong label may hide that a train row is a validation row.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

from pipeline.storage.arrays import Arrays
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

SPLITS = ("train", "validation", "query")
NAMED = 3
"""Pairs that a line names."""


@dataclass(frozen=True)
class Pair:
    """A row, the first row of another split with its input, and whether all such rows have another label than it."""

    row: int
    other: int
    relabelled: bool


def shared_rows(layout: Layout) -> list[str]:
    """A sentence for each two splits that share inputs, under whatever label; none where all are disjoint.

    Raises:
        StoreError: the run has no hashes of inputs.
    """
    _, rows = open_arrays(layout.hashes, "rows")
    _, inputs = open_arrays(layout.inputs, "inputs")
    lines = []
    for a, b in combinations(SPLITS, 2):
        pairs = sorted(_pairs(rows, inputs, a, b), key=lambda pair: (not pair.relabelled, pair.row))
        if pairs:
            some = ", ".join(f"{a} {pair.row} and {b} {pair.other}" for pair in pairs[:NAMED])
            relabelled = sum(pair.relabelled for pair in pairs)
            under = f", {relabelled} of them under another label" if relabelled else ""
            lines.append(
                f"{a} rows with the input of a {b} row: {len(pairs)}{under} ({some}); evaluation on them flatters"
            )
    return lines


def _pairs(rows: Arrays, inputs: Arrays, a: str, b: str) -> list[Pair]:
    """The rows of `a` whose inputs stand in `b`, in order."""
    first: dict[bytes, int] = {}
    for i, content in enumerate(inputs.read(b)):
        first.setdefault(bytes(content), i)
    whole = {bytes(content) for content in rows.read(b)}
    return [
        Pair(i, first[bytes(content)], bytes(row) not in whole)
        for i, (content, row) in enumerate(zip(inputs.read(a), rows.read(a), strict=True))
        if bytes(content) in first
    ]
