"""Solve: scores of whole gradients by what needs the model; nothing is compressed.

Classical influence at `trained`: the mean gradient of the validation rows is solved for once, u = (C + lambda)^-1
g_val, C of the train rows, and its product with the gradient of every train row is that row's score. S at `flat`: with
C of the validation rows factored, each train row's g^T (C + lambda)^-1 g. Pairs: the gradient of every query row is
solved for in closed form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.capture.cover import cover
from pipeline.core.capture.engine import Engine
from pipeline.core.device import chosen
from pipeline.core.rows import Part, batches
from pipeline.core.solvers import ekfac
from pipeline.core.solvers.cg import Solution, conjugate_gradients
from pipeline.core.solvers.lissa import lissa
from pipeline.core.solvers.products import RowGradients
from pipeline.errors import DataError
from pipeline.methods import CURVATURE_SPLIT, METHODS, SOLVED_PAIRS, solved_from
from pipeline.steps.job import Job
from pipeline.steps.stores import open_codes, retired_of
from pipeline.steps.tasks import attributed, derive, model_at, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.checks import row_set

BATCH_ROWS = 256
PROBED_ROWS = 2
VECTORS_BYTES = 2**27
"""Of solved query gradients at a time."""


def run(job: Job, method: str) -> None:
    """Write `solved/<method>.zarr`: train [N], or [N, Q] of pairs, NaN for rows that do not count.

    The record holds lambda and residual.
    """
    use_threads(job.config)
    plan, task, at = job.plan(), task_of(job.config, job.plan()), METHODS[method].at[0]
    stored = {split: open_codes(job.layout, plan, at, split) for split in solved_from(method)}
    counted = {split: np.flatnonzero(codes.counted()) for split, codes in stored.items()}
    device = chosen(job.config.compute.device)
    model = model_at(task, job.layout, at, device)
    shapes, _ = attributed(model, job.config.gradients.include, job.config.gradients.exclude)
    parts = {split: Part(row_set(task, split, device), rows.tolist()) for split, rows in counted.items()}
    rows = {split: RowGradients(model, task.loss, part, tuple(shapes), BATCH_ROWS) for split, part in parts.items()}
    found: dict[str, Any] = {"damping": job.config.solvers.factored_damping, "residual": 0.0, "products": 0}
    job.say(f"{METHODS[method].title}: {METHODS[method].note}")
    scores = np.full(plan.splits["train"].rows, np.nan)
    if method in SOLVED_PAIRS:
        scores = np.full((len(scores), plan.splits["query"].rows), np.nan, np.float32)
        values = _pairs(job, *_factored(job, rows[CURVATURE_SPLIT[at]], shapes, method), rows["train"], rows["query"])
        scores[np.ix_(counted["train"], counted["query"])] = values.numpy()
    elif at == "flat":
        scores[counted["train"]] = _forms(job, method, rows["train"], rows["validation"], shapes).numpy()
    else:
        squares = float(np.square(stored["train"].column("norm_full")[counted["train"]].astype(np.float64)).mean())
        vector, unit = rows["validation"].mean(), squares / len(counted["train"])
        solution, level = _solved(job, method, rows["train"], shapes, vector, unit)
        scores[counted["train"]] = rows["train"].dots(solution.vector[None])[:, 0].numpy()
        found = {"damping": level, "residual": solution.residual, "products": solution.products}
    section = job.config.solvers.plain()
    identity = {
        "method": method,
        "gradients": {split: codes.digests() for split, codes in stored.items()},
        "solvers": {key: value for key, value in section.items() if key.startswith(_PREFIX.get(method, "factored"))},
        "damping": job.config.curvature.damping,
        "checkpoint": read_manifest(job.layout.checkpoint(at)).digest,
        "retired": retired_of(plan, "train"),
    }
    with job.writing(job.layout.solved(method), "solved", identity) as (path, record):
        write_arrays(path, {"train": scores})
        record.update(found)


_PREFIX = {"classical_cg": "cg", "classical_lissa": "lissa"}
"""Of the settings that are read by others than K-FAC and EK-FAC."""


def _solved(job: Job, method: str, train: RowGradients, shapes: Any, vector: Tensor,
            unit: float) -> tuple[Solution, float]:  # fmt: skip
    """u, and the lambda that was taken; `unit` is tr(C) / n."""
    section, level = job.config.solvers, job.config.curvature.damping * unit
    if method == "classical_cg":
        solution = conjugate_gradients(
            lambda u: train.fisher(u) + level * u, vector, section.cg_tolerance, section.cg_products
        )
        if solution.residual > section.cg_tolerance:
            job.say(f"CG stopped after {solution.products} products at a residual of {solution.residual:.2g}")
        return solution, level
    if method == "classical_lissa":
        seed, size = derive(job.config.seed, method) % 2**31, min(section.lissa_batch_rows, len(train.rows))
        return lissa(train, vector, level, section.lissa_depth, section.lissa_repeats, size, seed), level
    factored = _factored(job, train, shapes, method)[0]
    return Solution(factored.solve(vector, section.factored_damping), 0.0, 0), section.factored_damping


def _factored(job: Job, of: RowGradients, shapes: Any, method: str) -> tuple[ekfac.Factored, Engine]:
    """The factored Fisher matrix of some rows, and the engine that captures them."""
    probe = of.rows.batch(range(min(PROBED_ROWS, len(of.rows))))
    engine = cover(of.model, of.loss, of.names, probe, job.config.gradients.engine).engine
    return ekfac.fit(engine, batches(of.rows, BATCH_ROWS), shapes, method.endswith("_ekfac")), engine


def _forms(job: Job, method: str, train: RowGradients, validation: RowGradients, shapes: Any) -> Tensor:
    """S or W of each train row, [n]."""
    factored, engine = _factored(job, validation, shapes, method)
    damping, mean = job.config.solvers.factored_damping, method.startswith("w_")
    return factored.forms(engine, batches(train.rows, BATCH_ROWS), damping, mean)


def _pairs(job: Job, factored: ekfac.Factored, engine: Engine, train: RowGradients, query: RowGradients) -> Tensor:
    """g^T (C + lambda)^-1 g_q of each train and query row, [n, q]; a pass over the train rows for some queries."""
    if not len(query.rows):
        raise DataError("expected query rows to score pairs of, got none that count; give the task query_rows")
    each, found = max(1, VECTORS_BYTES // (8 * train.size)), []
    progress = job.progress("solving for query rows", len(query.rows))
    for start in range(0, len(query.rows), each):
        asked = range(start, min(start + each, len(query.rows)))
        vectors = [factored.solve(query.of([row]).mean(), job.config.solvers.factored_damping) for row in asked]
        found.append(factored.products(engine, batches(train.rows, BATCH_ROWS), torch.stack(vectors)))
        progress.add(len(asked))
    return torch.cat(found, 1)
