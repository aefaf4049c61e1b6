"""Test accuracy after removing, relabelling or pruning what each score suspects, and training again.

Planted noise, uniform, 40 %; `learnt` says how many of the wrong labels the model that is judged has learnt by heart.
As many rows are removed or relabelled as are wrong; pruning drops the least suspicious half (GEX's protocol), which is
meant for clean rows and therefore tried on clean ones, too, where the most influential rows should suffice. Beside
the scores stand plain losses, as many random rows, the oracle, and nothing done. `--small`, the default: few rows, SAM
with rho .2, one run a data set, 5 models of each kind, whose differences are paired by seed; `--full`: rho chosen as by
default, five runs, with the standard error over them.

Paths of data: LOWLAND_FASHION, LOWLAND_LETTERS; where Debian's packages put them otherwise.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from benchmarks.evidence import BY_HEART
from benchmarks.evidence_cells import CELLS, SOURCES, Cell
from benchmarks.stages import Run, captured, retrained, scored
from benchmarks.tables import keep
from pipeline.steps.tasks import task_of
from pipeline.storage.tables import read_table

SIZES: dict[str, dict[str, dict[str, int]]] = {
    "small": {
        "digits": {"train_size": 400, "validation_size": 200, "query_size": 1000, "epochs": 100},
        "letters": {"train_size": 1000, "validation_size": 300, "query_size": 1000, "epochs": 60},
    },
    "full": {
        "digits": {"train_size": 1000, "validation_size": 300, "query_size": 497},
        "letters": {"train_size": 5000, "validation_size": 500, "query_size": 2000},
        "Fashion-MNIST": {"train_size": 2000, "validation_size": 500, "query_size": 2000},
    },
}
"""Options of the tasks, beside those of the evidence's cells."""
FLATTEN: dict[str, dict[str, Any]] = {"small": {"strength": 0.2, "watch": False}, "full": {}}
RUNS = {"small": 1, "full": 5}
RANKINGS = {"small": ["wrong", "s", "loss_flat"], "full": ["wrong", "s", "loss_flat", "loss_trained", "self_influence"]}
CLEAN = ["s", "self_influence", "loss_flat"]
"""Rankings that clean rows are pruned by."""
KEYS = ("rows", "checkpoint", "action", "control")

Row = dict[str, Any]


def table(setting: str, cell: Cell, seed: int, clean: bool = False) -> list[Row]:
    """Of one run; of clean rows what pruning does."""
    options = {**cell.options_of(small=False, seed=seed), **SIZES[setting][cell.data]}
    options |= {"noise": "none"} if clean else {}
    run = Run("cleansing", f"{setting}-{cell.data.lower()}{'-clean' if clean else ''}-{seed}", {
        "seed": seed,
        "task": {"class": cell.task, "options": options},
        "flatten": FLATTEN[setting],
        "scores": {"estimators": ["self_influence"]},
        "retrain": {"rankings": CLEAN if clean else RANKINGS[setting]},
    })  # fmt: skip
    stages = [*captured(run.plan, ("train", "validation")), *scored(run.plan)]
    run.make([*stages, *retrained(run.config, "removal"), ("retraining", {"set_name": "removal"})])
    print(f"done: {cell.data}{', clean' if clean else ''}, seed {seed}", flush=True)
    rows = run.table("retraining-removal")
    if clean:
        return [{**row, "data": f"{cell.data}, clean"} for row in rows if row["action"] in ("nothing", "pruned")]
    return [{**row, "data": f"{cell.data}, {cell.noise}", "learnt": learnt(run)} for row in rows]


def learnt(run: Run) -> float:
    """Share of the wrong labels that the trained model says itself."""
    task, scores = task_of(run.config, run.plan), read_table(run.layout.scores, ["given", "loss_trained"])
    wrong = np.asarray(task.true_labels) != np.asarray(scores["given"])
    return float((np.asarray(scores["loss_trained"], float)[wrong] < BY_HEART).mean())


def rows_of(tables: list[list[Row]]) -> list[Row]:
    """Means over the runs on a data set; errors over the runs, or those of the only one over its models."""
    found = []
    share = [rows[0]["learnt"] for rows in tables if "learnt" in rows[0]]
    said = f"; learnt: {statistics.mean(share):.0%}" if share else ""
    for rows in zip(*tables, strict=True):
        assert len({tuple(row[key] for key in KEYS) for row in rows}) == 1
        row: Row = {
            "data": f"{rows[0]['data']}{said}",
            **{key: rows[0][key] for key in KEYS},
            "control": "yes" if rows[0]["control"] else "",
            "treated": rows[0]["removed"] or rows[0]["relabelled"],
            "accuracy": statistics.mean(each["accuracy"] for each in rows),
        }
        for over in ("over_whole", "over_control"):
            row[over], row[f"{over}_error"] = gain([each[over] for each in rows], rows[0][f"{over}_error"])
        found.append(row)
    return found


def gain(values: list[float], own_error: float) -> tuple[float, float]:
    """The mean and its standard error over the runs; of one run, its own error."""
    error = own_error if len(values) == 1 else statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), error


def cells(setting: str) -> list[Cell]:
    """Those of a setting."""
    return [cell for cell in CELLS if cell.data in SIZES[setting] and cell.heart and "uniform" in cell.noise]


def main(full: bool = False) -> None:
    """All data sets of a setting that are there; a run that fails stops the benchmark."""
    setting = "full" if full else "small"
    left_out = [cell for cell in cells(setting) if not cell.there()]
    for cell in left_out:
        print(f"left out, as {cell.source} names no data: {cell.data}, which needs {SOURCES[cell.source]}", flush=True)
    rows: list[Row] = []
    for clean in (False, True):
        for cell in (cell for cell in cells(setting) if cell.there()):
            rows += rows_of([table(setting, cell, seed, clean) for seed in range(RUNS[setting])])
    notes = {"sizes": SIZES[setting], "runs": RUNS[setting], "left_out": [cell.data for cell in left_out]}
    keep("cleansing", f"python -m benchmarks cleansing --{setting}", rows, by="data", setting=setting, **notes)


if __name__ == "__main__":
    main()
