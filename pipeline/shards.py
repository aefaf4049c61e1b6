"""The plan of a run: how many rows there are, what they contain, and how they are cut into shards.

The Snakefile needs shards before anything ran, so the plan is brought up to date while it is parsed and is read by all
jobs. A *row* has a stable id: its position in the user's dataset, and a hash of its content. A shard is a range of
positions with the hash of its rows: when rows are appended, only new shards (and the last one, if it was partial)
differ. A *retired* row takes part in no answer; when the stores are compacted it is *dropped* from its shard, too.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import log2
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, StoreError
from pipeline.provenance import digest_bytes

PLAN_FORMAT = 3

SHARD_SECONDS = 60
NOMINAL_SPEED = 3e10
"""Operations a second of one core of an ordinary machine."""
PASSES = 3
"""A backward pass takes twice what the forward pass does."""
OVERHEAD = 1e6
"""What a row costs beside its model: reading, encoding, writing; in operations."""
LEAST_ROWS, MOST_ROWS = 256, 262144


@dataclass(frozen=True)
class Shard:
    """Rows [start, stop) of a split, with the digest of their contents, but for those that were dropped."""

    name: str
    start: int
    stop: int
    content: str
    dropped: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows."""
        return self.stop - self.start - len(self.dropped)

    @property
    def positions(self) -> list[int]:
        """Where its rows are in the split, in order."""
        gone = set(self.dropped)
        return [position for position in range(self.start, self.stop) if position not in gone]

    def plain(self) -> dict[str, Any]:
        """Which rows these are, for an identity."""
        return {"start": self.start, "stop": self.stop, "content": self.content, "dropped": list(self.dropped)}


@dataclass(frozen=True)
class Split:
    """A set of rows: how many, the digest of all their contents, and its shards in order."""

    rows: int
    content: str
    shards: tuple[Shard, ...]

    def shard(self, name: str) -> Shard:
        """The shard of that name."""
        for shard in self.shards:
            if shard.name == name:
                return shard
        raise DataError(f"expected a shard up to {self.shards[-1].name if self.shards else 'none'}, got {name!r}")


@dataclass(frozen=True)
class Plan:
    """What a run is about.

    Attributes:
        splits: train, validation and query rows.
        classes: names of the C classes; empty where the task is no classification.
        labelled: whether the task gives labels for its train rows, so that relabelling is possible.
        trains: whether the task brings its own training.
        shard_rows: rows of a full shard.
        truth: digest of the true labels, for evaluation; empty where they are not known.
        retired: positions of the train rows that take part in no answer, ascending.
        data: the task's keyword arguments that only say which rows there are.
        stamp: what the plan was made from; while it stays the same, rows are not read again.
        parts: of a row's loss.
        groups: digest of the groups of train and query rows, for evaluation; empty where they are not known.
    """

    splits: dict[str, Split]
    classes: tuple[str, ...]
    labelled: bool
    trains: bool
    shard_rows: int
    truth: str
    retired: tuple[int, ...]
    data: dict[str, Any]
    stamp: dict[str, Any]
    parts: int = 1
    groups: str = ""

    def save(self) -> str:
        """As JSON text."""
        return json.dumps({"format": PLAN_FORMAT, **asdict(self)}, indent=1)

    @staticmethod
    def load(path: Path) -> Plan:
        """From the file that `save` was written to.

        Raises:
            StoreError: no such file, or not a plan.
        """
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            if value.pop("format") != PLAN_FORMAT:
                raise KeyError("format")
            splits = {
                name: Split(part["rows"], part["content"], tuple(map(_shard, part["shards"])))
                for name, part in value.pop("splits").items()
            }
            classes, retired = tuple(value.pop("classes")), tuple(value.pop("retired"))
            return Plan(splits=splits, classes=classes, retired=retired, **value)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"expected the plan of a run at {path}, got none that can be read; run `lowland run` there"
            ) from error

    def without(self, retired: Sequence[int], dropped: Sequence[int]) -> Plan:
        """The same with these train rows retired, and those dropped from their shards."""
        gone, train = sorted(dropped), self.splits["train"]
        shards = tuple(
            replace(shard, dropped=tuple(gone[bisect_left(gone, shard.start) : bisect_left(gone, shard.stop)]))
            for shard in train.shards
        )
        splits = {**self.splits, "train": replace(train, shards=shards)}
        return replace(self, splits=splits, retired=tuple(sorted(retired)))


def _shard(value: dict[str, Any]) -> Shard:
    return Shard(**{**value, "dropped": tuple(value["dropped"])})


def cut(hashes: Sequence[bytes], shard_rows: int) -> Split:
    """Rows with these content hashes, cut into shards of `shard_rows`, the last one shorter.

    >>> split = cut([b"a", b"b", b"c"], shard_rows=2)
    >>> [(shard.name, shard.start, shard.stop) for shard in split.shards]
    [('00000', 0, 2), ('00001', 2, 3)]
    >>> cut([b"a", b"b", b"d"], shard_rows=2).shards[0] == split.shards[0]
    True
    """
    starts = range(0, len(hashes), shard_rows)
    shards = [
        Shard(
            f"{i:05d}", start, min(start + shard_rows, len(hashes)), digest_bytes(*hashes[start : start + shard_rows])
        )
        for i, start in enumerate(starts)
    ]
    return Split(len(hashes), digest_bytes(*hashes), tuple(shards))


def settled_rows(operations: int) -> int:
    """Rows of a shard for a model of which the forward pass of a row takes so many floating point operations.

    A job should capture for some `SHARD_SECONDS`, so that starting it (Python, libraries, the model) is a small part;
    yet shards are what runs in parallel, and what is made anew when a row in them changes. A power of two.

    >>> settled_rows(10**5), settled_rows(10**9)
    (262144, 512)
    """
    wanted = SHARD_SECONDS * NOMINAL_SPEED / (PASSES * operations + OVERHEAD)
    return int(min(MOST_ROWS, max(LEAST_ROWS, 2 ** round(log2(wanted)))))


def sample(hashes: Sequence[bytes], count: int, seed: int) -> list[int]:
    """Up to `count` row positions in the order of a seeded hash of their content: independent of the rows' order.

    Equal rows are taken in order of position.

    >>> sample([b"a", b"b", b"c"], 2, seed=0) == sorted(sample([b"a", b"b", b"c"], 2, seed=0))
    True
    """
    order = sorted(
        range(len(hashes)), key=lambda i: (digest_bytes(seed.to_bytes(8, "little", signed=True), hashes[i]), i)
    )
    return sorted(order[:count])
