"""LDS on digits: do summed scores predict what models on random halves of the train rows make of the query rows?

An MLP of 3,010 parameters, 1,000 clean train rows, 300 query rows, 40 halves, 3 models on each. Damping, projection and
codec are the defaults, the flat minimum is that of SAM with rho .2; every score is of one model. Responses are minus
the loss and the margin; the ceiling is what one retrained model a half reaches as prediction of the mean of the others.
Every score stands beside the simple controls. `--small`, the default: training of 60 epochs, one seed, whose intervals
are over queries and halves. `--full`: also 200 epochs, five seeds, with the range over them.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.stages import Run, captured, further, retrained
from benchmarks.tables import keep
from pipeline.config import SPLITS

SUBSETS, MODELS, QUERIES = 40, 3, 300
SETTINGS = {"small": ((60,), (0,)), "full": ((60, 200), (0, 1, 2, 3, 4))}
"""Epochs and seeds."""
ESTIMATORS = ["tracin", "relatif", "datainf", "trak", "gex", "influence_kfac", "influence_ekfac", "fvm_ekfac"]
MEMBERS = 4
"""Of the ensemble of GEX."""
KEYS, MARKS = ("method", "checkpoint"), ("signed", "control")

Row = dict[str, Any]


def made(setting: str, epochs: int, seed: int) -> Run:
    """One run."""
    run = Run("lds", f"{setting}-{epochs}-{seed}", {
        "seed": seed,
        "task": {"class": "digits", "options": {"noise": "none", "hidden": [40], "epochs": epochs,
                                                "query_size": QUERIES, "seed": seed}},
        "flatten": {"strength": 0.2, "watch": False},
        "scores": {"estimators": ESTIMATORS},
        "ensemble": {"members": MEMBERS},
        "retrain": {"lds_subsets": SUBSETS, "lds_seeds": MODELS},
    })  # fmt: skip
    stages = [
        *captured(run.plan, SPLITS),
        *further(run.plan, run.config, SPLITS),
        *retrained(run.config, "half"),
        ("lds", {"set_name": "half"}),
    ]
    run.make(stages)
    print(f"done: {epochs} epochs, seed {seed}", flush=True)
    return run


def rows_of(epochs: int, tables: list[list[Row]]) -> list[Row]:
    """The mean over the runs of a regime, each row being the same score; low and high: of one run, or the range."""
    found = []
    for rows in zip(*tables, strict=True):
        assert len({tuple(row[key] for key in KEYS) for row in rows}) == 1
        values = [row["lds"] for row in rows]
        bounds = (rows[0]["low"], rows[0]["high"]) if len(rows) == 1 else (min(values), max(values))
        marks = {key: "yes" if rows[0][key] else "" for key in MARKS}
        head = {"setting": f"{epochs} epochs, {rows[0]['response']}", **{key: rows[0][key] for key in KEYS}}
        found.append({**head, **marks, "lds": statistics.mean(values), "low": bounds[0], "high": bounds[1]})
    return found


def main(full: bool = False) -> None:
    """All regimes and seeds of a setting; one that fails stops the benchmark."""
    setting = "full" if full else "small"
    regimes, seeds = SETTINGS[setting]
    runs = {epochs: [made(setting, epochs, seed) for seed in seeds] for epochs in regimes}
    rows = [row for epochs, own in runs.items() for row in rows_of(epochs, [run.table("lds-half") for run in own])]
    bounds = "range over the seeds" if len(seeds) > 1 else "bootstrapped interval of 95 %"
    keep("lds", f"python -m benchmarks lds --{setting}", rows, by="setting", setting=setting, seeds=seeds,
         subsets=SUBSETS, models_a_subset=MODELS, queries=QUERIES, low_and_high=bounds)  # fmt: skip


if __name__ == "__main__":
    main()
