"""Test accuracy after removing, relabelling or pruning what each score suspects, and training again.

Planted noise (uniform, 40 %) that the model has learnt by heart, 1,000 train rows. As many rows are removed or
relabelled as are wrong; pruning drops the least suspicious half (GEX's protocol). Beside the scores stand the plain
losses, as many random rows, the oracle, and nothing done. `--small`, the default: one run a data set, 5 models of each
kind, whose differences are paired by seed; `--full`: five runs, with the standard error over them.

Paths of data: LOWLAND_FASHION, LOWLAND_LETTERS; where Debian's packages put them otherwise.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from benchmarks.evidence_cells import CELLS, SOURCES, Cell
from benchmarks.stages import Run, captured, retrained, scored
from benchmarks.tables import keep

DATA = {"small": ("digits", "letters"), "full": ("digits", "letters", "Fashion-MNIST")}
RUNS = {"small": 1, "full": 5}
QUERIES = {"digits": 497, "letters": 1000, "Fashion-MNIST": 1000}
"""Rows that accuracy is measured on."""
RANKINGS = ["wrong", "s", "loss_flat", "loss_trained", "self_influence"]
KEYS = ("rows", "checkpoint", "action", "control")

Row = dict[str, Any]


def table(setting: str, cell: Cell, seed: int) -> list[Row]:
    """Of one run."""
    options = {**cell.options_of(small=True, seed=seed), "query_size": QUERIES[cell.data]}
    run = Run("cleansing", f"{setting}-{cell.slug}-{seed}", {
        "seed": seed,
        "task": {"class": cell.task, "options": options},
        "scores": {"estimators": ["self_influence"]},
        "retrain": {"rankings": RANKINGS},
    })  # fmt: skip
    stages = [*captured(run.plan, ("train", "validation")), *scored(run.plan)]
    run.make([*stages, *retrained(run.config, "removal"), ("retraining", {"set_name": "removal"})])
    print(f"done: {cell.name}, seed {seed}", flush=True)
    return run.table("retraining-removal")


def rows_of(cell: Cell, tables: list[list[Row]]) -> list[Row]:
    """Means over the runs on a data set; errors over the runs, or those of the only one over its models."""
    found = []
    for rows in zip(*tables, strict=True):
        assert len({tuple(row[key] for key in KEYS) for row in rows}) == 1
        row: Row = {
            "data": cell.name,
            **{key: rows[0][key] for key in KEYS},
            "treated": rows[0]["removed"] or rows[0]["relabelled"],
        }
        row["accuracy"] = statistics.mean(each["accuracy"] for each in rows)
        for over in ("over_whole", "over_control"):
            row[over], row[f"{over}_error"] = gain([each[over] for each in rows], rows[0][f"{over}_error"])
        found.append(row)
    return found


def gain(values: list[float], own_error: float) -> tuple[float, float]:
    """The mean and its standard error over the runs; of one run, its own error."""
    error = own_error if len(values) == 1 else statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), error


def main(full: bool = False) -> None:
    """All data sets of a setting that are there; a run that fails stops the benchmark."""
    setting = "full" if full else "small"
    cells = [cell for cell in CELLS if cell.data in DATA[setting] and cell.heart and "uniform" in cell.noise]
    for cell in cells:
        if not cell.there():
            print(
                f"left out, as {cell.source} names no data: {cell.data}, which needs {SOURCES[cell.source]}", flush=True
            )
    rows: list[Row] = []
    for cell in (cell for cell in cells if cell.there()):
        rows += rows_of(cell, [table(setting, cell, seed) for seed in range(RUNS[setting])])
    left_out = [cell.name for cell in cells if not cell.there()]
    keep("cleansing", f"python -m benchmarks cleansing --{setting}", rows, by="data", setting=setting,
         runs=RUNS[setting], noise="planted", left_out=left_out)  # fmt: skip


if __name__ == "__main__":
    main()
