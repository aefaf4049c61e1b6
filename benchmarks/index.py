"""Kinds of indexes over made codes of real spectrum and norms: time, size, latency, recall of preconditioned queries.

A run of a million rows is written, its curvature and vectors come from the stages of the product, and so does the index
that `auto` takes, for which `lowland query` is timed cold (a new process) and warm (within one). Every kind is asked
for the ten best by influence, one query at a time, and what it finds is reranked from the store.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.synthetic import job, train_codes, write_run
from benchmarks.tables import keep
from pipeline.core.agreement import recall_at_k
from pipeline.shards import Plan
from pipeline.steps import curvature, vectors
from pipeline.steps import index as index_stage
from pipeline.steps.codes import CodeSet, blocks
from pipeline.steps.preconditioned import open_preconditioner, open_vectors
from pipeline.steps.query import Questions, open_stores
from pipeline.steps.retrieve import LEAST_FETCHED, Indexed, exact_search, index_search
from pipeline.steps.space import Space
from pipeline.storage import indexes
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import Workers

SHARD_ROWS = 50_000
QUERIES, BEST = 64, 10
THREADS = 1
WORKERS = Workers(THREADS, 2 * 10**9)
OVERSAMPLE, PROBES, BREADTH = 16, (16, 64, 256), (128, 512)
KINDS = {
    50_000: ("Flat", "RaBitQfs2", "RaBitQfs", "SQ8", "IVF256,SQ8"),
    200_000: ("Flat", "RaBitQfs2", "SQ8", "IVF512,Flat", "HNSW32"),
    1_000_000: ("Flat", "RaBitQfs2", "RaBitQfs", "IVF1024,Flat", "IVF1024,SQ8", "IVF1024,PQ128x4fs"),
}
"""Factories to try for so many rows, on plain and on half-whitened rows; Flat is exact for either."""
TRAINING_ROWS = 40_000


def prepared(directory: Path, rows: int) -> Layout:
    """A run with curvature and vectors."""
    layout = write_run(directory, rows, SHARD_ROWS, 512)
    curvature.run(job(layout, "curvature", THREADS), "trained", "train")
    for split in ("validation", "query"):
        vectors.run(job(layout, "vectors", THREADS), "trained", split)
    return layout


def built(codes: CodeSet, factory: str, space: Space) -> tuple[indexes.Index, float, int]:
    """An index, the seconds that it took, and its bytes on disk."""
    started = time.perf_counter()
    every = ((positions, space.rows(rows)) for positions, rows in blocks(codes))
    chosen = np.random.default_rng(0).choice(codes.rows, min(codes.rows, TRAINING_ROWS), replace=False)
    index = indexes.build(factory, codes.dimension, every, lambda: space.rows(codes.gather(np.sort(chosen))), THREADS)
    spent = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as scratch:
        index.save(Path(scratch) / "index")
        return index, spent, sum(file.stat().st_size for file in (Path(scratch) / "index").iterdir())


def settings_of(factory: str) -> Iterator[tuple[int, int]]:
    """Probes and breadths to try."""
    if factory.startswith("IVF"):
        yield from ((probes, BREADTH[0]) for probes in PROBES)
    elif factory.startswith("HNSW"):
        yield from ((PROBES[0], breadth) for breadth in BREADTH)
    else:
        yield PROBES[0], BREADTH[0]


def asked(index: Indexed, codes: CodeSet, queries: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Latency of single queries on one thread, and recall."""
    walls, cpus, found = [], [], []
    for query in queries:
        wall, cpu = time.perf_counter(), time.process_time()
        found.append(index_search(index, codes, "influence", query[None], BEST, False, WORKERS).ids[0])
        walls.append(1e3 * (time.perf_counter() - wall))
        cpus.append(1e3 * (time.process_time() - cpu))
    bare = Indexed(index.index, index.space, 1, 1)
    before = [index_search(bare, codes, "influence", query[None], BEST, False, WORKERS).ids[0] for query in queries]
    return {
        "ms median": statistics.median(walls),
        "ms min": min(walls),
        "CPU ms median": statistics.median(cpus),
        "recall@10": recall_at_k(np.array(found), exact),
        "before rerank": recall_at_k(np.array(before), exact),
    }


def rows_of(layout: Layout, most: int) -> Iterator[dict[str, Any]]:
    """A row of the table for each kind, size and setting."""
    every, fitted = train_codes(layout), open_preconditioner(layout, "trained", "train")[0]
    queries = open_vectors(layout, "trained", "query").solved(slice(0, QUERIES))
    for size in [size for size in KINDS if size <= most]:
        shards = every.shards[: size // SHARD_ROWS]
        codes = CodeSet(shards, size)
        exact = exact_search(codes, "influence", queries, BEST, False, WORKERS).ids
        for factory in KINDS[size]:
            for whitened in (False, True) if factory != "Flat" else (False,):
                space = Space("inner", fitted if whitened else None)
                index, spent, held = built(codes, factory, space)
                for probes, breadth in settings_of(factory):
                    index.tune(probes, breadth)
                    found = asked(Indexed(index, space, OVERSAMPLE), codes, queries, exact)
                    setting = {"IVF": f"{probes} probes", "HNS": f"breadth {breadth}"}.get(factory[:3], "")
                    row = {"rows": size, "kind": factory, "setting": setting,
                           "of rows": "half-whitened" if whitened else "plain", "build s": spent,
                           "index_bytes": held, **found}  # fmt: skip
                    print(row, file=sys.stderr, flush=True)
                    yield row
                del index


def live(layout: Layout, rows: int) -> dict[str, Any]:
    """`lowland query` on the index that the stage makes by default: a new process, and questions within one.

    Within one, on a thread and on as many as there are cores, which is what `lowland query` takes.
    """
    index_stage.run(job(layout, "index", THREADS), "trained", "inner")
    command = [sys.executable, "-m", "pipeline", "query", str(layout.run), "--row"]
    cold = []
    for row in range(5):
        started = time.perf_counter()
        subprocess.run([*command, f"query:{row}"], check=True, capture_output=True, env={**os.environ})
        cold.append(time.perf_counter() - started)
    found = {"rows": rows, "cold s min": min(cold), "cold s median": statistics.median(cold)}
    for threads in sorted({1, os.cpu_count() or 1}):
        warm = warm_ms(layout, Workers(threads, WORKERS.memory_bytes))
        found |= {f"warm ms min, {threads} threads": min(warm), f"warm ms, {threads} threads": statistics.median(warm)}
    return found


def warm_ms(layout: Layout, workers: Workers) -> list[float]:
    """Of questions within a process, each row once; the first questions, which open the stores, are not counted."""
    plan = Plan.load(layout.plan)
    stores, questions = (
        open_stores(layout, plan, "influence@trained", workers),
        Questions(layout, plan, "influence@trained"),
    )
    took = []
    for row in range(QUERIES):
        started = time.perf_counter()
        stores.answer(questions.vectors("query", np.array([row])), BEST, False)
        took.append(1e3 * (time.perf_counter() - started))
    return took[1:]


def main() -> None:
    """Measure all; INDEX_ROWS=200000 in the environment stops at sizes up to that, INDEX_LIVE=1 after the live run."""
    most = int(os.environ.get("INDEX_ROWS", max(KINDS)))
    with tempfile.TemporaryDirectory(prefix="index-") as scratch:
        layout = prepared(Path(scratch), most)
        answered = live(layout, most)
        print(answered, file=sys.stderr, flush=True)
        if os.environ.get("INDEX_LIVE"):
            return
        table = [*rows_of(layout, most)]
    keep("index", "python -m benchmarks index", table, by="rows", threads=THREADS, queries=QUERIES,
         fetched=LEAST_FETCHED, live=answered)  # fmt: skip


if __name__ == "__main__":
    main()
