"""Influence of train rows on what a GAN generates: how true it is, and what a generator gains without the worst rows.

Two tasks, each as it is and with a tenth of junk among its train rows: a mixture of five Gaussians in the plane, judged
by the log-likelihood of held-out rows; and digits, judged by the logarithm of an Inception score. A row of the table is
a score. `tau N`: Kendall's correlation with what the metric loses when the last N epochs are replayed without a row.
`replay N`: what the metric on test rows gains when the last N epochs are replayed without the worst tenth, over random
tenths. `retrained`: the same of two trainings a run from other seeds, over as many random rows, paired by seed. Means
over the runs, with standard errors over them (of one run, none), and the share of runs in which there is a gain.
`whole training`: one run of the mixture, replayed from its first step on. 500 train rows, batches of 100.

`--small`, the default: one run of each. `--full`: ten of the mixture, three of the digits. Runs are kept under
`runs/gan/`: what was broken off goes on, `--table` prints what there is.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.stages import Run, captured, remembered, retrained
from benchmarks.tables import keep
from pipeline.methods import METHODS, TRACED

Row = dict[str, Any]

RANKINGS = ("gan_itd", "gan_aid", "classical", "loss_trained")
RETRAINED = ("gan_itd", "loss_trained")
HORIZONS = (1, 2, 5, 10)
COMMON: Row = {
    "flatten": {"strength": 0.2, "watch": False, "steps": 50},
    "sharpness": {"draws": 2, "iterations": 4, "rows": 64},
    "projection": {"dimension": 256},
    "scores": {"estimators": ["classical", *TRACED]},
    "retrain": {"rankings": list(RETRAINED), "removed_share": 0.1, "seeds": 2},
}


@dataclass(frozen=True, eq=False)
class Cell:
    """What is run ten times."""

    name: str
    task: str
    options: Row = field(default_factory=dict)
    gan: Row = field(default_factory=lambda: {"horizons": list(HORIZONS), "replayed_rows": 40})
    runs: int = 10
    retrained: bool = True


WHOLE = {"epochs": 0, "horizons": [*HORIZONS, 30, 60], "replayed_rows": 30, "replayed_draws": 5}
POINTS = {"train_size": 500, "epochs": 60, "rate": 2e-3}
DIGITS = {"train_size": 500, "epochs": 80, "rate": 2e-3}
CELLS = (
    Cell("mixture", "gan_mixture", POINTS),
    Cell("digits", "gan_digits", DIGITS, runs=3),
    Cell("mixture with junk", "gan_mixture", {**POINTS, "junk": 0.1}),
    Cell("digits with junk", "gan_digits", {**DIGITS, "junk": 0.1}, runs=3),
    Cell("mixture, whole training", "gan_mixture", POINTS, WHOLE, 1, False),
    Cell("mixture, leaky ReLU", "gan_mixture", {**POINTS, "activation": "leaky_relu"}, runs=1, retrained=False),
)


def run(cell: Cell, seed: int, only_kept: bool) -> dict[str, list[Row]] | None:
    """The tables of a run, which is made unless they are kept; None where it is not to be."""
    slug = f"{cell.name.replace(', ', '-').replace(' ', '-')}-{seed}"
    made_of = {**COMMON, "seed": seed, "task": {"class": cell.task, "options": {**cell.options, "seed": seed}},
               "gan": cell.gan}  # fmt: skip
    tables: dict[str, list[Row]] | None = remembered(
        "gan", slug, made_of, lambda: _computed(slug, made_of, cell), only_kept
    )
    return tables


def _computed(slug: str, made_of: Row, cell: Cell) -> dict[str, list[Row]]:
    made = Run("gan", slug, made_of)
    stages = [*captured(made.plan, tuple(made.plan.splits)), ("record", {})]
    stages += [("trace", {"method": method}) for method in TRACED]
    stages += [("scores", {}), ("replay", {})]
    if cell.retrained:
        stages += [*retrained(made.config, "cleansing"), ("retraining", {"set_name": "cleansing"})]
    made.make(stages)
    found = {table: made.table(table) for table in ("replay", *(["retraining-cleansing"] if cell.retrained else []))}
    shutil.rmtree(made.layout.run)
    return found


def rows_of(cell: Cell, tables: list[dict[str, list[Row]]]) -> list[Row]:
    """A row a score: means over the runs."""
    horizons = list(dict.fromkeys(row["epochs"] for row in tables[0]["replay"]))
    found = []
    for name in RANKINGS:
        replays = [{row["epochs"]: row for row in table["replay"] if _is(row, "method", name)} for table in tables]
        row: Row = {"data": cell.name, "score": METHODS[name].title, "control": METHODS[name].control}
        row |= {f"tau {epochs}": statistics.mean(each[epochs]["kendall"] for each in replays) for epochs in horizons}
        row["least tau"] = min(each[epochs]["kendall"] for each in replays for epochs in horizons)
        for epochs in (min(HORIZONS), max(HORIZONS)):
            row |= _gains(f"replay {epochs}", [each[epochs]["gain"] for each in replays])
        if cell.retrained:
            row |= _gains("retrained", [
                each["over_control"] for table in tables for each in table["retraining-cleansing"]
                if _is(each, "rows", name)
            ])  # fmt: skip
        found.append({**row, "runs": len(tables)})
    return found


def _is(row: Row, column: str, name: str) -> bool:
    """Whether a row is that of a score; two are called loss, at different checkpoints."""
    return bool(row[column] == METHODS[name].title and row["checkpoint"] == METHODS[name].at[0])


def _gains(what: str, values: Sequence[float]) -> Row:
    """Nothing for a score that was not tried."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    mean, positive = (None, None) if not values else (statistics.mean(values), sum(each > 0 for each in values))
    return {what: mean, f"{what} error": error, f"{what} gains": None if positive is None else positive / len(values)}


def main(full: bool = False, table_only: bool = False) -> None:
    """All cells of a setting, one run of each first; `table_only`: a table of those that were run."""
    setting = "full" if full else "small"
    found: dict[Cell, list[dict[str, list[Row]]]] = {cell: [] for cell in CELLS}
    for seed in range(max(cell.runs for cell in CELLS) if full else 1):
        for cell in (cell for cell in CELLS if seed < cell.runs):
            tables = run(cell, seed, table_only)
            found[cell] += [] if tables is None else [tables]
    rows = [row for cell, tables in found.items() if tables for row in rows_of(cell, tables)]
    command = f"python -m benchmarks gan --{setting}{' --table' if table_only else ''}"
    keep("gan", command, rows, by="data", setting=setting)


if __name__ == "__main__":
    main()
