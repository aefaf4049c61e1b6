"""Solve: scores of whole gradients by what needs the model; nothing is compressed.

Classical influence at `trained`: the mean gradient of the validation rows is solved for once, u = (C + lambda)^-1
g_val, C of the train rows, and its product with the gradient of every train row is that row's score. S at `flat`: with
C of the validation rows factored, each train row's g^T (C + lambda)^-1 g.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from pipeline.core.capture.cover import cover
from pipeline.core.capture.engine import Engine
from pipeline.core.device import chosen
from pipeline.core.rows import Part, batches
from pipeline.core.solvers import ekfac
from pipeline.core.solvers.cg import Solution, conjugate_gradients
from pipeline.core.solvers.lissa import lissa
from pipeline.core.solvers.products import RowGradients
from pipeline.methods import METHODS
from pipeline.steps.job import Job
from pipeline.steps.stores import open_codes, retired_of
from pipeline.steps.tasks import attributed, derive, model_at, task_of, use_threads
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.tasks.checks import row_set

BATCH_ROWS = 256
PROBED_ROWS = 2


def run(job: Job, method: str) -> None:
    """Write `solved/<method>.zarr`: train [N], NaN for rows that do not count; the record holds lambda and residual."""
    use_threads(job.config)
    plan, task, at = job.plan(), task_of(job.config, job.plan()), METHODS[method].at[0]
    stored = {split: open_codes(job.layout, plan, at, split) for split in ("train", "validation")}
    counted = {split: np.flatnonzero(codes.counted()) for split, codes in stored.items()}
    device = chosen(job.config.compute.device)
    model = model_at(task, job.layout, at, device)
    shapes, _ = attributed(model, job.config.gradients.include, job.config.gradients.exclude)
    train, validation = (
        RowGradients(model, task.loss, Part(row_set(task, split, device), rows.tolist()), tuple(shapes), BATCH_ROWS)
        for split, rows in counted.items()
    )
    scores = np.full(plan.splits["train"].rows, np.nan)
    if at == "flat":
        job.say(f"S by {method}, curvature of {len(validation.rows)} validation rows")
        values, damping = _forms(job, method, train, validation, shapes), job.config.solvers.factored_damping
        record_of: dict[str, Any] = {"damping": damping, "residual": 0.0, "products": 0}
    else:
        squares = float(np.square(stored["train"].column("norm_full")[counted["train"]].astype(np.float64)).mean())
        job.say(f"solving for the mean gradient of {len(validation.rows)} validation rows by {method}")
        solution, level = _solved(job, method, train, shapes, validation.mean(), squares / len(train.rows))
        values = train.dots(solution.vector[None])[:, 0]
        record_of = {"damping": level, "residual": solution.residual, "products": solution.products}
    scores[counted["train"]] = values.numpy()
    section = job.config.solvers.plain()
    identity = {
        "method": method,
        "gradients": {split: codes.digests() for split, codes in stored.items()},
        "solvers": {key: value for key, value in section.items() if key.startswith(_PREFIX[method])},
        "damping": job.config.curvature.damping,
        "checkpoint": read_manifest(job.layout.checkpoint(at)).digest,
        "retired": retired_of(plan, "train"),
    }
    with job.writing(job.layout.solved(method), "solved", identity) as (path, record):
        write_arrays(path, {"train": scores})
        record.update(record_of)


_PREFIX = {
    "classical_cg": "cg",
    "classical_lissa": "lissa",
    "classical_kfac": "factored",
    "classical_ekfac": "factored",
    "s_kfac": "factored",
    "s_ekfac": "factored",
}


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
    factored = _factored(job, train, shapes, method == "classical_ekfac")[0]
    return Solution(factored.solve(vector, section.factored_damping), 0.0, 0), section.factored_damping


def _factored(job: Job, of: RowGradients, shapes: Any, corrected: bool) -> tuple[ekfac.Factored, Engine]:
    """The factored Fisher matrix of some rows, and the engine that captures them."""
    probe = of.rows.batch(range(min(PROBED_ROWS, len(of.rows))))
    engine = cover(of.model, of.loss, of.names, probe, job.config.gradients.engine).engine
    return ekfac.fit(engine, batches(of.rows, BATCH_ROWS), shapes, corrected), engine


def _forms(job: Job, method: str, train: RowGradients, validation: RowGradients, shapes: Any) -> Tensor:
    """S of each train row, [n]."""
    factored, engine = _factored(job, validation, shapes, method == "s_ekfac")
    return factored.forms(engine, batches(train.rows, BATCH_ROWS), job.config.solvers.factored_damping)
