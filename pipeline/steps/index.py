"""Index: the train codes of a checkpoint in FAISS, and how much of the exact answer it finds.

Recall is measured with preconditioned vectors of validation rows, as queries come; codes as queries would flatter it.
These rows are not in the index; at flat, their gradients are part of the curvature that preconditions them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.core.agreement import recall_at_k
from pipeline.core.influence import SIGNED
from pipeline.shards import sample
from pipeline.steps.codes import CodeSet, blocks
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, open_vectors
from pipeline.steps.retrieve import Indexed, exact_search, index_search
from pipeline.steps.space import Space, fit_space, settled
from pipeline.steps.stores import open_arrays, open_codes
from pipeline.storage import indexes
from pipeline.storage.layout import METRIC_OF

Array = np.ndarray[Any, Any]

TRAINING_ROWS = 65_536
RECALL_AT = 10


def run(job: Job, checkpoint: str, metric: str) -> None:
    """Write `index/<checkpoint>-<metric>.faiss`, with recall@10 before and after the rerank in its record."""
    section, plan = job.config.index, job.plan()
    codes = open_codes(job.layout, plan, checkpoint, "train")
    vectors = open_vectors(job.layout, checkpoint, "validation")
    finite = int(codes.finite().sum())
    factory, whitened = settled(section, metric, finite, codes.dimension)
    space = fit_space(job, checkpoint, metric, whitened)
    index = indexes.build(factory, codes.dimension, _blocks(job, codes, space), lambda: _sample(job, codes, space),
                          job.config.compute.threads)  # fmt: skip
    indexes.tune(index, section.probes, section.breadth)
    identity = {"gradients": codes.digests(), "index": section.plain(), "metric": metric, "rows": finite,
                "factory": factory, "whitening": space.digest}  # fmt: skip
    with job.writing(job.layout.index(checkpoint, metric), "index", identity) as (path, record):
        indexes.save(index, path)
        record["vectors"] = vectors.manifest.digest
        record.update(_recall(job, Indexed(index, space, section.oversample), codes, vectors))
    kind = f"{factory}{' of half-whitened rows' if whitened else ''}"
    job.say(f"recall@{RECALL_AT} of {kind} against exact search: {record['recall']:.3f}")


def _blocks(job: Job, codes: CodeSet, space: Space) -> Iterator[tuple[Array, Array]]:
    progress = job.progress("indexing", codes.rows)
    for positions, rows in blocks(codes, retired=True):
        yield positions, space.rows(rows)
        progress.add(len(positions))


def _sample(job: Job, codes: CodeSet, space: Space) -> Array:
    """Rows to train quantisers on: all, or so many spread over the rows by a seeded stream."""
    finite = np.nonzero(codes.finite())[0]
    if len(finite) > TRAINING_ROWS:
        finite = np.sort(
            np.random.default_rng([job.config.seed, len(finite)]).choice(finite, TRAINING_ROWS, replace=False)
        )
    return space.rows(codes.gather(finite))


def _recall(job: Job, index: Indexed, codes: CodeSet, vectors: Vectors) -> dict[str, Any]:
    """recall@10 against exact search over validation rows chosen by content, for the record."""
    _, hashes = open_arrays(job.layout.hashes, "rows")
    finite = np.nonzero(vectors.finite())[0]
    content = hashes.read("validation")[finite]
    chosen = finite[sample([bytes(row) for row in content], job.config.index.recall_rows, job.config.seed)]
    queries = vectors.codes(chosen) if index.space.metric == "cosine" else vectors.solved(chosen)
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
