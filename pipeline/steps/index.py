"""Index: the train codes of a checkpoint in FAISS, and how much of the exact answer it finds.

Recall is measured with preconditioned vectors of validation rows, as queries come; codes as queries would flatter it.
These rows are not in the index; at flat, their gradients are part of the curvature that preconditions them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.core.agreement import recall_at_k
from pipeline.core.influence import SIGNED, unit
from pipeline.shards import sample
from pipeline.steps.codes import CodeSet, blocks
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import Vectors, open_vectors
from pipeline.steps.retrieve import exact_search, index_search
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
    index = indexes.build(section.factory, len(codes.shards[0].codec.column_scale), _blocks(job, codes, metric),
                          lambda: _sample(job, codes, metric), job.config.compute.threads)  # fmt: skip
    indexes.tune(index, section.probes, section.breadth)
    identity = {"gradients": codes.digests(), "index": section.plain(), "metric": metric, "rows": finite}
    with job.writing(job.layout.index(checkpoint, metric), "index", identity) as (path, record):
        indexes.save(index, path)
        record["vectors"] = vectors.manifest.digest
        record.update(_recall(job, index, codes, vectors, metric))
    job.say(f"recall@{RECALL_AT} of {section.factory} against exact search: {record['recall']:.3f}")


def _blocks(job: Job, codes: CodeSet, metric: str) -> Iterator[tuple[Array, Array]]:
    progress = job.progress("indexing", codes.rows)
    for positions, rows in blocks(codes, retired=True):
        yield positions, unit(rows).astype(np.float32) if metric == "cosine" else rows
        progress.add(len(positions))


def _sample(job: Job, codes: CodeSet, metric: str) -> Array:
    """Rows to train quantisers on: all, or so many spread over the rows by a seeded stream."""
    finite = np.nonzero(codes.finite())[0]
    if len(finite) > TRAINING_ROWS:
        finite = np.sort(
            np.random.default_rng([job.config.seed, len(finite)]).choice(finite, TRAINING_ROWS, replace=False)
        )
    rows = codes.gather(finite)
    return unit(rows).astype(np.float32) if metric == "cosine" else rows


def _recall(job: Job, index: Any, codes: CodeSet, vectors: Vectors, metric: str) -> dict[str, Any]:
    """recall@10 against exact search over validation rows chosen by content, for the record."""
    _, hashes = open_arrays(job.layout.hashes, "rows")
    finite = np.nonzero(vectors.finite())[0]
    content = hashes.read("validation")[finite]
    chosen = finite[sample([bytes(row) for row in content], job.config.index.recall_rows, job.config.seed)]
    queries = vectors.codes(chosen) if metric == "cosine" else vectors.solved(chosen)
    scores = [score for score, kind in METRIC_OF.items() if kind == metric]
    after = {score: _share_found(job, index, codes, score, queries, job.config.index.oversample) for score in scores}
    before = {score: _share_found(job, index, codes, score, queries, 1) for score in scores}
    mean = float(np.mean(list(after.values())))
    return {"recall": mean, "recall_by_score": after, "recall_before_rerank": before, "recall_rows": len(chosen)}


def _share_found(job: Job, index: Any, codes: CodeSet, score: str, queries: Array, oversample: int) -> float:
    """Mean recall@10 of the directions that the index answers; the bottom of an unsigned score is scanned for."""
    k, workers = min(RECALL_AT, int(codes.counted().sum())), job.workers()
    shares = []
    for bottom in (False, True) if SIGNED[score] else (False,):
        found = index_search(index, codes, score, queries, k, bottom, oversample, workers)
        shares.append(recall_at_k(found.ids, exact_search(codes, score, queries, k, bottom, workers).ids))
    return float(np.mean(shares))
