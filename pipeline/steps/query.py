"""Query: the k most helpful and most harmful train rows of every declared query row, and the live form of the same.

Live answers need the stores only: a row that the run knows is answered without torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT, parse_score
from pipeline.core.influence import SIGNED
from pipeline.errors import DataError, StoreError
from pipeline.shards import Plan
from pipeline.steps.codes import CodeSet
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, check_curvature, open_preconditioner, open_vectors
from pipeline.steps.retrieve import Indexed, Ranked, exact_search, index_search
from pipeline.steps.space import open_space
from pipeline.steps.stores import open_codes, retired_of
from pipeline.storage import indexes
from pipeline.storage.artefact import manifest_path, open_artefact, read_manifest
from pipeline.storage.layout import METRIC_OF, Layout
from pipeline.storage.reduction import Workers
from pipeline.storage.tables import write_table

Array = np.ndarray[Any, Any]

SIGN = {
    True: (
        "signed: positive where training on the row lowered the query's loss (it helped), negative where it raised it"
    ),
    False: "unsigned: larger where the row matters more, in either direction",
}
DIRECTIONS = ("top", "bottom")


@dataclass(frozen=True)
class Stores:
    """What answers a score at a checkpoint: the train codes, the index where there is one, and who scans."""

    score: str
    checkpoint: str
    codes: CodeSet
    index: Indexed | None
    workers: Workers

    def answer(self, queries: Array, k: int, bottom: bool, exact: bool = False) -> Ranked:
        """The k best (or worst) rows of each query vector [q, K].

        Raises:
            DataError: fewer rows than k can be ranked.
        """
        rows = int(self.codes.counted().sum())
        if not 1 <= k <= rows:
            raise DataError(f"expected k from 1 to {rows}, the train rows that can be ranked, got {k}; choose another")
        if exact or self.index is None:
            return exact_search(self.codes, self.score, queries, k, bottom, self.workers)
        return index_search(self.index, self.codes, self.score, queries, k, bottom, self.workers)


def open_stores(layout: Layout, plan: Plan, text: str, workers: Workers) -> Stores:
    """What answers a score such as "influence@trained"; without an index of its kind, all codes are scanned."""
    score, checkpoint = parse_score(text)
    codes = open_codes(layout, plan, checkpoint, "train")
    if score != "cosine" and CURVATURE_SPLIT[checkpoint] == "train":
        check_curvature(layout, checkpoint, codes)
    path = layout.index(checkpoint, METRIC_OF[score])
    if not manifest_path(path).exists():
        return Stores(score, checkpoint, codes, None, workers)
    manifest = open_artefact(path, "index")
    if manifest.identity["gradients"] != codes.digests():
        return Stores(score, checkpoint, codes, None, workers)
    section, space = manifest.identity["index"], open_space(layout, checkpoint, manifest.identity)
    if space is None:
        return Stores(score, checkpoint, codes, None, workers)
    index = indexes.load(path, workers.threads)
    index.tune(section["probes"], section["breadth"])
    return Stores(score, checkpoint, codes, Indexed(index, space, section["oversample"]), workers)


@dataclass(frozen=True)
class Questions:
    """What rows that a run knows ask with under a score; what one question opens, the next finds open."""

    layout: Layout
    plan: Plan
    text: str

    def vectors(self, split: str, rows: Array) -> Array:
        """u = H^-1 g of rows of a split, or g itself for cosine, [q, K].

        Raises:
            DataError: a row outside the split, or one whose gradient is not finite.
        """
        score, checkpoint = parse_score(self.text)
        _check_within(self.plan, split, rows)
        if split == "train":
            _check_present(self.plan, rows)
            _check_finite(split, rows, np.isin(rows, np.nonzero(self._train.finite())[0]))
            gradients = self._train.gather(rows).astype(np.float64)
            return gradients if score == "cosine" else precondition(self.layout, checkpoint, gradients)
        vectors, finite = self._opened.get(split) or self._opened.setdefault(split, self._open(checkpoint, split))
        _check_finite(split, rows, finite[rows])
        return vectors.codes(rows) if score == "cosine" else vectors.solved(rows)

    def _open(self, checkpoint: str, split: str) -> tuple[Vectors, Array]:
        """The vectors of a split, and which of its rows are numbers."""
        vectors = open_vectors(self.layout, checkpoint, split)
        if vectors.manifest.identity["gradients"] != open_codes(self.layout, self.plan, checkpoint, split).digests():
            raise StoreError(
                f"expected vectors of the {split} rows as they are now, got those of others; run `lowland run`"
            )
        return vectors, vectors.finite()

    @cached_property
    def _train(self) -> CodeSet:
        return open_codes(self.layout, self.plan, parse_score(self.text)[1], "train")

    @cached_property
    def _opened(self) -> dict[str, tuple[Vectors, Array]]:
        return {}


def _check_within(plan: Plan, split: str, rows: Array) -> None:
    count = plan.splits[split].rows
    for row in rows:
        if not 0 <= row < count:
            raise DataError(
                f"expected a {split} row from 0 to {count - 1}, got {row}; ask for one of these"
                if count
                else f"expected {split} rows in the task, got none; ask for validation:ROW or train:ROW"
            )


def precondition(layout: Layout, checkpoint: str, gradients: Array) -> Array:
    """u = H^-1 g with the curvature that belongs to a checkpoint, [q, K]."""
    preconditioner, _ = open_preconditioner(layout, checkpoint, CURVATURE_SPLIT[checkpoint])
    return preconditioner.solve(gradients)


def still_counted(layout: Layout, plan: Plan, text: str) -> int:
    """Retired rows that the curvature behind a score still counts, until the next run takes them out."""
    score, checkpoint = parse_score(text)
    if score == "cosine" or CURVATURE_SPLIT[checkpoint] != "train":
        return 0
    taken_out = read_manifest(layout.curvature(checkpoint, "train")).identity["retired"]
    return len(set(plan.retired) - set(taken_out))


def _check_present(plan: Plan, rows: Array) -> None:
    gone = set(plan.retired)
    for row in rows:
        if int(row) in gone:
            raise DataError(
                f"expected a train row that is not retired, got {row}; `lowland retire --restore` brings it back"
            )


def _check_finite(split: str, rows: Array, finite: Array) -> None:
    if not finite.all():
        raise DataError(
            f"expected a finite gradient of {split} row {rows[~finite][0]}, got none: its loss or gradient is NaN or "
            "infinite"
        )


def run(job: Job) -> None:
    """Write `query/topk.parquet`, key (query, score, direction, rank)."""
    section, plan = job.config.query, job.plan()
    columns: dict[str, list[Any]] = {name: [] for name in ("query", "score", "direction", "rank", "row", "value")}
    digests = {}
    progress = job.progress("queries", plan.splits["query"].rows * len(section.scores) * 2, "answers")
    for text in section.scores:
        stores = open_stores(job.layout, plan, text, job.workers())
        digests[text] = stores.codes.digests()
        rows = _finite_queries(job, stores.checkpoint, plan)
        if not len(rows):
            continue
        k = min(section.k, int(stores.codes.counted().sum()))
        queries = Questions(job.layout, plan, text).vectors("query", rows)
        for direction in DIRECTIONS if SIGNED[stores.score] else DIRECTIONS[:1]:
            _append(columns, text, direction, rows, stores.answer(queries, k, direction == "bottom"))
            progress.add(len(rows))
    identity = {"scores": digests, "query": section.plain(), "content": plan.splits["query"].content,
                "retired": retired_of(plan, "train")}  # fmt: skip
    with job.writing(job.layout.topk, "query", identity) as (path, _):
        notes = {text: SIGN[SIGNED[parse_score(text)[0]]] for text in section.scores}
        write_table(path, columns, notes)


def _finite_queries(job: Job, checkpoint: str, plan: Plan) -> Array:
    if not plan.splits["query"].rows:
        return np.zeros(0, np.int64)
    return np.nonzero(open_vectors(job.layout, checkpoint, "query").finite())[0]


def _append(columns: dict[str, list[Any]], text: str, direction: str, rows: Array, ranked: Ranked) -> None:
    for row, ids, scores in zip(rows, ranked.ids, ranked.scores, strict=True):
        for rank, (found, score) in enumerate(zip(ids, scores, strict=True), 1):
            for name, value in zip(columns, (int(row), text, direction, rank, int(found), float(score)), strict=True):
                columns[name].append(value)
