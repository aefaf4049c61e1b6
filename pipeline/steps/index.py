"""Index: the train codes of a checkpoint in FAISS, and how much of the exact answer it finds.

Where the kind of index is left to us, one that finds too little of the exact answer gives way to the next kind.
Recall is measured with preconditioned vectors of validation rows, as queries come; codes as queries would flatter it.
These rows are not in the index; at flat, their gradients are part of the curvature that preconditions them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.core.agreement import recall_at_k
from pipeline.core.influence import SIGNED
from pipeline.shards import sample
from pipeline.steps.codes import CodeSet
from pipeline.steps.indexing import Older, older, rows_of, updated, vectors
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, open_vectors
from pipeline.steps.retrieve import Indexed, exact_search, index_search
from pipeline.steps.space import LEAST_RECALL, Space, fit_space, is_whitened, kinds
from pipeline.steps.stores import open_codes
from pipeline.storage import indexes
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import Manifest, kept_manifest, read_manifest
from pipeline.storage.layout import METRIC_OF
from pipeline.storage.opened import open_arrays

Array = np.ndarray[Any, Any]

TRAINING_ROWS = 65_536
RECALL_AT = 10
MOST_CHANGED = 0.05
"""Share of the rows that may change before recall is measured again."""


def run(job: Job, checkpoint: str, metric: str) -> None:
    """Write `index/<checkpoint>-<metric>.faiss`, with recall@10 before and after the rerank in its record."""
    section, plan = job.config.index, job.plan()
    codes = open_codes(job.layout, plan, checkpoint, "train")
    asked = open_vectors(job.layout, checkpoint, "validation")
    rows = int(codes.finite().sum())
    curvature = read_manifest(job.layout.curvature(checkpoint, CURVATURE_SPLIT[checkpoint]))
    conditions = {"index": section.plain(), "curvature": curvature.identity["curvature"]}
    identity = {
        "gradients": codes.digests(),
        "projection": read_manifest(job.layout.projection(checkpoint)).digest,
        "index": section.plain(),
        "metric": metric,
        "rows": rows,
    }
    former = kept_manifest(job.layout.index(checkpoint, metric), "index")
    wanted = _wanted(former, kinds(section, rows, codes.dimension), conditions)
    for place, factory in enumerate(wanted, 1):
        identity["factory"], whitened = factory, is_whitened(section, metric, factory)
        found = older(job, former, checkpoint, identity, conditions, whitened)
        index, how = _made(job, codes, checkpoint, metric, factory, whitened, found)
        index.index.tune(section.probes, section.breadth)
        recall = _carried(found, how, conditions, rows) or {
            **_recall(job, index, codes, asked), "recall_of": conditions, "changed_since_recall": 0
        }  # fmt: skip
        kind = f"{factory}{' of half-whitened rows' if whitened else ''}"
        job.say(f"recall@{RECALL_AT} of {kind} against exact search: {recall['recall']:.3f}")
        if recall["recall"] >= LEAST_RECALL or place == len(wanted):
            break
        job.say(f"that is below {LEAST_RECALL}: {wanted[place]} is taken")
    identity["whitening"] = index.space.digest
    with job.writing(job.layout.index(checkpoint, metric), "index", identity) as (path, record):
        index.index.save(path)
        listed = _listed(job, codes, job.layout.indexed(checkpoint, metric), identity)
        record.update(how, vectors=asked.manifest.digest, rows_digest=listed)
        record.update(recall)


def _wanted(former: Manifest | None, possible: Sequence[str], conditions: dict[str, Any]) -> list[str]:
    """Kinds to try: from the one on that the former index settled on under the same conditions."""
    if former is not None and former.record["recall_of"] == conditions and former.identity["factory"] in possible:
        return list(possible[possible.index(former.identity["factory"]) :])
    return list(possible)


def _made(job: Job, codes: CodeSet, checkpoint: str, metric: str, factory: str, whitened: bool,
          found: Older | None) -> tuple[Indexed, dict[str, Any]]:  # fmt: skip
    """The index, and how it was made: the former one with rows added and taken out, else built."""
    threads, oversample = job.config.compute.threads, job.config.index.oversample
    changed = updated(found, codes) if found else None
    if found and changed:
        job.say(f"{changed[0]} rows added to the index, {changed[1]} taken out")
        how = {"added": changed[0], "removed": changed[1], "trained_rows": found.record["trained_rows"]}
        return Indexed(found.index, found.space, oversample), how
    space = fit_space(job, checkpoint, metric, whitened)
    index = indexes.build(factory, codes.dimension, _blocks(job, codes, space), lambda: _sample(job, codes, space),
                          threads)  # fmt: skip
    how = {"added": None, "removed": None, "trained_rows": int(codes.finite().sum())}
    return Indexed(index, space, oversample), how


def _carried(found: Older | None, how: dict[str, Any], conditions: dict[str, Any], rows: int) -> dict[str, Any] | None:
    """The recall that was measured before, while few rows have changed since, under the same conditions.

    Measuring it takes exact scans of all rows, many times what some new rows cost.
    """
    if found is None or how["added"] is None or found.record["recall_of"] != conditions:
        return None
    changed = found.record["changed_since_recall"] + how["added"] + how["removed"]
    kept = {key: value for key, value in found.record.items() if key.startswith("recall")}
    return {**kept, "changed_since_recall": changed} if changed <= MOST_CHANGED * rows else None


def _listed(job: Job, codes: CodeSet, path: Path, identity: dict[str, Any]) -> str:
    """Write which rows and codes the index holds; returns the digest."""
    rows = rows_of(codes)
    with job.writing(path, "indexed", identity) as (place, _):
        write_arrays(place, {"row": rows.positions, "code": rows.codes})
    return read_manifest(path).digest


def _blocks(job: Job, codes: CodeSet, space: Space) -> Iterator[tuple[Array, Array]]:
    progress = job.progress("indexing", codes.rows)
    for positions, rows in vectors(codes, space):
        yield positions, rows
        progress.add(len(positions))


def _sample(job: Job, codes: CodeSet, space: Space) -> Array:
    """Rows to train quantisers on: all, or so many spread over the rows by a seeded stream."""
    finite = np.nonzero(codes.finite())[0]
    if len(finite) > TRAINING_ROWS:
        finite = np.sort(
            np.random.default_rng([job.config.seed, len(finite)]).choice(finite, TRAINING_ROWS, replace=False)
        )
    return space.rows(codes.gather(finite))


def _recall(job: Job, index: Indexed, codes: CodeSet, asked: Vectors) -> dict[str, Any]:
    """recall@10 against exact search over validation rows chosen by content, for the record."""
    _, hashes = open_arrays(job.layout.hashes, "rows")
    finite = np.nonzero(asked.finite())[0]
    content = hashes.read("validation")[finite]
    chosen = finite[sample([bytes(row) for row in content], job.config.index.recall_rows, job.config.seed)]
    queries = asked.codes(chosen) if index.space.metric == "cosine" else asked.solved(chosen)
    scores = [score for score, kind in METRIC_OF.items() if kind == index.space.metric]
    found = {score: _shares_found(job, index, codes, score, queries) for score in scores}
    after, before = ({score: shares[i] for score, shares in found.items()} for i in (0, 1))
    mean = float(np.mean(list(after.values())))
    return {"recall": mean, "recall_by_score": after, "recall_before_rerank": before, "recall_rows": len(chosen)}


def _shares_found(job: Job, index: Indexed, codes: CodeSet, score: str, queries: Array) -> tuple[float, float]:
    """Mean recall@10 with and without candidates in excess; the bottom of an unsigned score is scanned for."""
    k, workers = min(RECALL_AT, int(codes.counted().sum())), job.workers()
    shares = []
    for bottom in (False, True) if SIGNED[score] else (False,):
        exact = exact_search(codes, score, queries, k, bottom, workers).ids
        kinds = (index, replace(index, oversample=1, fetched=1))
        found = [index_search(kind, codes, score, queries, k, bottom, workers).ids for kind in kinds]
        shares.append([recall_at_k(ids, exact) for ids in found])
    after, before = np.mean(shares, axis=0)
    return float(after), float(before)
