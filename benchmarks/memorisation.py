"""Memorisation on digits by 400 models on random 70 % of the rows: wrong labels, the long tail, and what it is worth.

1,000 train rows, 300 query rows. With a tenth of the labels flipped (planted, uniform), and an MLP 64-256-64-10 that
learns all of them by heart in 200 epochs: how memorisation ranks them, beside the other scores. With clean labels, and
an MLP 64-40-10 of 60 epochs: the test accuracy without the memorised rows, and without as many random ones. `--small`,
the default: one seed, errors over the five models of each kind; `--full`: five seeds, errors over them.
"""

from __future__ import annotations

import math
import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

from benchmarks.stages import Run, captured, retrained, scored
from benchmarks.tables import keep

MODELS, QUERIES = 400, 300
CELLS: dict[str, dict[str, Any]] = {
    "planted uniform 10 %": {"noise": "uniform", "noise_rate": 0.1, "hidden": [256, 64], "epochs": 200},
    "clean labels": {"noise": "none", "noise_rate": 0.0, "hidden": [40], "epochs": 60},
}
"""Options of the task."""
SEEDS = {"small": 1, "full": 5}

Row = dict[str, Any]


def config(options: dict[str, Any], seed: int) -> dict[str, Any]:
    """What a run asks for beside the defaults."""
    return {
        "seed": seed,
        "task": {"class": "digits", "options": {**options, "query_size": QUERIES, "seed": seed}},
        "flatten": {"strength": 0.2, "watch": False},
        "retrain": {"members": 50, "memorisation_models": MODELS},
    }  # fmt: skip


def made(name: str, config: dict[str, Any]) -> tuple[list[Row], list[Row]]:
    """The figures and the test accuracies of a run, all of which is done."""
    torch.set_num_threads(1)
    run = Run("memorisation", name, config)
    run.make([
        *captured(run.plan, ("train", "validation")),
        *scored(run.plan),
        *retrained(run.config, "most"),
        ("memorisation", {}),
        *retrained(run.config, "memorised"),
        ("retraining", {"set_name": "memorised"}),
    ])  # fmt: skip
    print(f"done: {name}", flush=True)
    return run.table("memorised"), run.table("retraining-memorised")


def rows_of(labels: str, figures: list[list[Row]], accuracies: list[list[Row]]) -> list[Row]:
    """Figures of memorisation, then test accuracies, as means over the runs with standard errors over them."""
    found = []
    for rows in zip(*figures, strict=True):
        found.append(_row(labels, rows[0]["figure"], [row["value"] for row in rows], None))
    for rows in zip(*accuracies, strict=True):
        what = f"test accuracy: {rows[0]['rows']}, {rows[0]['action']}"
        found.append(_row(labels, what, [row["accuracy"] for row in rows], None))
        if rows[0]["over_control"] is not None:
            own = rows[0]["over_control_error"]
            found.append(_row(labels, f"{what}, over random rows", [row["over_control"] for row in rows], own))
    return found


def _row(labels: str, figure: str, values: list[float], own_error: float | None) -> Row:
    """The mean, and its standard error over the runs; of one run, its own where it has one."""
    error = own_error if len(values) == 1 else statistics.stdev(values) / math.sqrt(len(values))
    return {"labels": labels, "figure": figure, "value": statistics.mean(values), "standard error": error}


def main(full: bool = False) -> None:
    """Both kinds of labels, a core a run; one that fails stops the benchmark."""
    setting = "full" if full else "small"
    seeds = range(SEEDS[setting])
    rows: list[Row] = []
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        runs = {labels: [pool.submit(made, f"{setting}-{options['noise']}-{seed}", config(options, seed))
                         for seed in seeds] for labels, options in CELLS.items()}  # fmt: skip
        for labels, of in runs.items():
            figures, accuracies = zip(*(run.result() for run in of), strict=True)
            rows += rows_of(labels, list(figures), list(accuracies))
    keep("memorisation", f"python -m benchmarks memorisation --{setting}", rows, by="labels", setting=setting,
         models=MODELS, seeds=SEEDS[setting])  # fmt: skip


if __name__ == "__main__":
    main()
