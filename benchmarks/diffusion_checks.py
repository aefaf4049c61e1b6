"""What the benchmark `diffusion` checks: an approximate index against an exact scan, and signs against retraining."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.diffusion_runs import LEFT_OUT, TRAIN, Array, Seed, Values, pairs, run_of
from benchmarks.stages import Run
from pipeline.core.agreement import recall_at_k
from pipeline.steps.codes import blocks
from pipeline.steps.stores import open_codes
from pipeline.steps.tasks import model_at
from pipeline.storage import indexes
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set

INDEXES = (("HNSW16", 500), ("HNSW16", 10), ("HNSW2", 10))
"""Kinds of index with their breadth of search: the paper's, and two that search less."""
ASKED = 10
"""Generated samples whose influence is checked by retraining, of the classes that are left out."""


def searched(run: Run, own: dict[str, Array]) -> list[Values]:
    """Indexes over the rows of a run at unit length, against an exact product in memory.

    Args:
        run: with gradients at `trained`.
        own: whether query and train row are of one group, [Q, N] by the kind of group.
    """
    codes = open_codes(run.layout, run.plan, "trained", "train")
    queries = unit(open_codes(run.layout, run.plan, "trained", "query").codes())
    rows = unit(np.concatenate([values for _, values in blocks(codes)]))
    exact = np.argsort(-(queries @ rows.T), axis=1, kind="stable")[:, :10]
    scan_ms = median_ms(lambda query: query @ rows.T, queries)
    return [{"index": factory, "breadth": breadth, "rows": len(rows), "numbers": codes.dimension,
             "CPU ms, scan in memory": scan_ms, **_by_index(factory, breadth, rows, queries, exact, own)}
            for factory, breadth in INDEXES]  # fmt: skip


def _by_index(factory: str, breadth: int, rows: Array, queries: Array, exact: Array, own: dict[str, Array]) -> Values:
    index = indexes.build(factory, rows.shape[1], [(np.arange(len(rows)), rows)], lambda: rows, 1)
    index.tune(1, breadth)
    near = index.search(queries, 10)[0]
    found: Values = {"CPU ms, index": median_ms(lambda query: index.search(query, 10), queries),
                     "recall@10": float(recall_at_k(near, exact))}  # fmt: skip
    return found | {name: value for kind, same in own.items() for name, value in against(kind, same, near, exact)}


def against(kind: str, same: Array, near: Array, exact: Array) -> Iterator[tuple[str, Any]]:
    """Shares of the ten best that are a query's own, by index and by scan; queries where the index is better, worse."""
    by_index, by_scan = (np.take_along_axis(same, ids, 1).mean(1) for ids in (near, exact))
    yield f"{kind}@10, index", float(by_index.mean())
    yield f"{kind}@10, scan", float(by_scan.mean())
    yield f"{kind}: better, worse", f"{(by_index > by_scan).sum()}, {(by_index < by_scan).sum()}"


def unit(rows: Array) -> Array:
    """[n, K] at length one."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def median_ms(work: Callable[[Array], Any], queries: Array) -> float:
    """CPU time of one query at a time, which a busy machine hardly changes."""
    times = []
    for i in range(len(queries)):
        start = time.process_time()
        work(queries[i : i + 1])
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def retrained(seed: Seed, plain: Run, main: Run) -> Values:
    """Ten generated samples: does leaving their class out raise their loss, as the class's influence says?

    Args:
        seed: the model in question.
        plain: gradients as they are, for inner products: the change of loss to first order.
        main: DMin's.
    """
    left = [seed.task._names.index(name) for name in LEFT_OUT]
    queries, train = (seed.task._splits[split].labels.numpy() for split in ("query", "train"))
    asked = np.flatnonzero(np.isin(queries[: 3 * seed.setting.queries], left))[:ASKED]
    batch = row_set(seed.task, "query").batch(asked.tolist())
    before = losses(seed.task, seed.model, batch)
    scores = {"inner product": pairs(plain, "influence", "trained")[asked],
              "DMin": pairs(main, "cosine", "trained")[asked]}  # fmt: skip
    rises = np.array([losses(seed.task, without(seed, name), batch) - before for name in LEFT_OUT])
    sums = {name: np.array([values[:, train == number].sum(1) for number in left]) for name, values in scores.items()}
    own = np.array([left.index(int(queries[i])) for i in asked]), np.arange(len(asked))
    return {"seed": seed.setting.seed, **confirmed(before, rises, sums, own)}


def confirmed(before: Array, rises: Array, sums: dict[str, Array], own: tuple[Array, Array]) -> Values:
    """What retraining says of sums of scores.

    Args:
        before: losses of the samples, [q].
        rises: of these without each class, [classes, q].
        sums: of the scores of each class's rows, [classes, q], by method.
        own: where each sample's own class is in these.
    """
    rise, others = rises[own], [np.delete(rises[:, i], c).mean() for c, i in zip(*own, strict=True)]
    found: Values = {"samples": len(before), "loss": float(before.mean()),
                     "rise without the own class": float(rise.mean()),
                     "without another class": float(np.mean(others)), "raised": int((rise > 0).sum()),
                     "rises most without the own class": int((rises.argmax(0) == own[0]).sum())}  # fmt: skip
    for method, values in sums.items():
        found[f"{method}: sign confirmed"] = int((np.sign(values[own]) == np.sign(rise)).sum())
        found[f"{method}: own class is largest"] = int((values.argmax(0) == own[0]).sum())
    return found


def without(seed: Seed, name: str) -> torch.nn.Module:
    """The model, trained anew from the same start without a class."""
    run = run_of(seed.setting, f"without {name}".replace(" ", "-"), {"without": [name]})
    run.make([TRAIN])
    return model_at(seed.task, run.layout, "trained")


@torch.no_grad()
def losses(task: Task, model: torch.nn.Module, batch: Any) -> Array:
    """[q]."""
    return task.loss(model.eval(), batch).numpy()
