"""Against: do two runs answer alike? Of other seeds, projections, codecs or models, row for row by content.

Reads what both runs have answered already: `query/topk.parquet` and `scores/scores.parquet`. Rows and queries are
matched by the hash of input and label; what only one run has, or has retired, is left out of both, and lists are cut to
one length. Needs no torch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import parse_score, read_yaml
from pipeline.core.influence import SIGNED
from pipeline.errors import DataError
from pipeline.methods import METHODS, RANKED
from pipeline.shards import Plan
from pipeline.steps.job import Job
from pipeline.steps.query import DIRECTIONS
from pipeline.steps.stability import NOTE, agreement, suspects_agree
from pipeline.steps.tables import write_evaluation
from pipeline.steps.titles import named
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.storage.tables import read_table

Array = np.ndarray[Any, Any]


def compare(job: Job, others: Sequence[Layout]) -> list[dict[str, Any]]:
    """Write `evaluation/against.parquet`, and give its rows.

    Raises:
        DataError: a run that has no train rows in common with this one.
    """
    share = job.config.stability.suspects_share
    rows = [row for other in others for row in _compared(Runs(job.layout, other), share)]
    answers = [
        [open_artefact(each.topk, "query").digest, open_artefact(each.scores, "scores").digest]
        for each in (job.layout, *others)
    ]
    identity = {"runs": answers, "stability": job.config.stability.plain()}
    write_evaluation(job, "against", rows, identity, NOTE)
    return rows


def differences(one: Layout, other: Layout) -> list[str]:
    """Keys of the configuration in which two runs differ, such as projection.method."""
    first, second = (_flat(read_yaml(each.config)) for each in (one, other))
    return sorted(key for key in {*first, *second} if first.get(key) != second.get(key))


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return found


@dataclass(frozen=True)
class Runs:
    """Two runs."""

    here: Layout
    there: Layout

    def common(self, split: str) -> tuple[Array, Array]:
        """Positions of the rows that both have and have not retired, in this run and in the other, each [m].

        Equal rows are matched in their order.
        """
        places: dict[bytes, list[int]] = defaultdict(list)
        for position, content in _present(self.here, split):
            places[content].append(position)
        pairs = []
        for position, content in _present(self.there, split):
            if places[content]:
                pairs.append((places[content].pop(0), position))
        found = np.array(sorted(pairs), np.int64).reshape(-1, 2)
        return found[:, 0], found[:, 1]


def _present(layout: Layout, split: str) -> Iterator[tuple[int, bytes]]:
    """Position and content of the rows of a split that are not retired."""
    gone = set(Plan.load(layout.plan).retired) if split == "train" else set()
    for position, content in enumerate(open_arrays(layout.hashes, "rows")[1].read(split)):
        if position not in gone:
            yield position, bytes(content)


def _compared(runs: Runs, share: float) -> Iterator[dict[str, Any]]:
    """A row a score and direction that both runs have, by the names that they have in this one."""
    here, there = runs.common("train")
    if not len(here):
        raise DataError(
            f"expected a run that shares train rows with {runs.here.run}, input and label, got none in "
            f"{runs.there.run}; compare runs of the same data"
        )
    name = runs.there.run.resolve().name
    for text, direction, first, second in _lists(runs, here, there):
        score, checkpoint = parse_score(text)
        k = float(np.mean([len(each) for each in first]))
        head = {
            "answers": f"{direction} rows of queries",
            "score": named(runs.here, METHODS[score].title),
            "checkpoint": checkpoint,
        }
        yield {**head, "against": name, **agreement(first, second, k, len(here))}
    mine, theirs = _scores(runs.here), _scores(runs.there)
    for column in (each for each in mine if each in theirs):
        method = RANKED[column]
        values = [method.suspicious * table[column][rows] for table, rows in ((mine, here), (theirs, there))]
        if np.isfinite(values).all(0).any():
            head = {
                "answers": "suspects",
                "score": named(runs.here, method.title),
                "checkpoint": "+".join(method.at[:1]),
            }
            yield {**head, "against": name, **suspects_agree(values[0], values[1], share)}


def _lists(runs: Runs, here: Array, there: Array) -> Iterator[tuple[str, str, list[Array], list[Array]]]:
    """Score, direction, and the best rows of every query that both runs have, by this run's positions."""
    to_here = dict(zip(there.tolist(), here.tolist(), strict=True))
    own, other = (_topk(layout) for layout in (runs.here, runs.there))
    queries = list(zip(*(each.tolist() for each in runs.common("query")), strict=True))
    kept = set(here.tolist())
    for text in sorted({text for text, _, _ in own} & {text for text, _, _ in other}):
        for direction in DIRECTIONS if SIGNED[parse_score(text)[0]] else DIRECTIONS[:1]:
            first, second = [], []
            for mine, theirs in queries:
                a = [row for row in own.get((text, direction, mine), []) if row in kept]
                b = [to_here[row] for row in other.get((text, direction, theirs), []) if row in to_here]
                length = min(len(a), len(b))
                if length:
                    first.append(np.array(a[:length]))
                    second.append(np.array(b[:length]))
            if first:
                yield text, direction, first, second


def _topk(layout: Layout) -> dict[tuple[str, str, int], list[int]]:
    """Rows in order of rank by (score, direction, query)."""
    open_artefact(layout.topk, "query")
    table = read_table(layout.topk, ["query", "score", "direction", "row"])
    found: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for query, score, direction, row in zip(*table.values(), strict=True):
        found[score, direction, query].append(row)
    return found


def _scores(layout: Layout) -> dict[str, Array]:
    """Columns of the score table, [N] each."""
    made = open_artefact(layout.scores, "scores").identity
    columns = [*(["wrong"] if made["posterior"] else []), *made["estimators"]]
    return {name: np.asarray(values, float) for name, values in read_table(layout.scores, columns).items()}
