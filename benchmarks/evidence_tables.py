"""The tables of the evidence, from what the evaluations of its runs say."""

from __future__ import annotations

import math
import statistics
from itertools import product
from typing import Any

from benchmarks.evidence_cells import Cell
from pipeline.methods import METHODS, POSTERIOR

Method = tuple[str, str]
"""Name and checkpoint."""
Figures = dict[str, dict[Method, float]]
"""Of a run: measure, method, figure."""

MEASURES = (
    ("AUC", "mislabel", "auc"),
    ("average precision", "mislabel", "average_precision"),
    ("recall at the noise rate", "mislabel", "recall_at_rate"),
    ("relabel accuracy", "relabel", "accuracy"),
    ("relabel accuracy of detected rows", "relabel", "of_detected"),
)
"""Name, table of the evaluation, its column."""

DEFAULT = POSTERIOR.title
SECOND_ORDER = (METHODS["s"].title, METHODS["w"].title)
LOSS = METHODS["loss_flat"].title
FIRST_ORDER = tuple(METHODS[name].title for name in ("classical", "tracin", "datainf"))


def at_plain(values: dict[Method, float]) -> dict[Method, float]:
    """Of the figures of a run at a plain minimum, those of VM, which older runs called FVM there, and of the loss."""
    return {
        (name.replace("FVM", "VM"), "plain"): value
        for (name, checkpoint), value in values.items()
        if checkpoint == "flat" and (name.startswith(("FVM", "VM")) or name == LOSS)
    }


def rows_of(cells: dict[Cell, list[Figures]], learnt: dict[Cell, float]) -> list[dict[str, Any]]:
    """Rows of the tables: each measure cell by cell, the default against the best other, second against first order.

    Raises:
        ValueError: a cell has no run, or its runs know different methods: nothing is printed that was not measured.
    """
    for cell, runs in cells.items():
        if not runs or any(set(found["AUC"]) != set(runs[0]["AUC"]) for found in runs):
            raise ValueError(f"expected runs of the same methods in the cell {cell.name}, got {len(runs)} runs")
    rows = [_margin(cell, runs, learnt[cell]) for cell, runs in cells.items()]
    for measure, _, _ in MEASURES:
        methods = list(dict.fromkeys(method for runs in cells.values() for method in runs[0][measure]))
        rows += [_measured(measure, methods, cell, runs) for cell, runs in cells.items()]
    return rows + [row for cell, runs in cells.items() for row in _orders(cell, runs)]


def _margin(cell: Cell, runs: list[Figures], learnt: float) -> dict[str, Any]:
    """The default of `suspects` against the best other method of its cell, by mean AUC."""
    means = {method: statistics.mean(run["AUC"][method] for run in runs) for method in runs[0]["AUC"]}
    ours = means[_ours(runs[0])]
    (best, at), other = max(
        ((method, value) for method, value in means.items() if method[0] != DEFAULT), key=lambda pair: pair[1]
    )
    paired = [run["AUC"][_ours(run)] - run["AUC"][best, at] for run in runs]
    return {
        "table": "`wrong`, the default of `suspects`, against the best other score of the cell (AUC)",
        "cell": cell.name,
        "role": cell.role,
        "learnt": learnt,
        "seeds": len(runs),
        "wrong": ours,
        "best other": other,
        "which": f"{best} @{at}",
        "difference": round(ours - other, 4),
        "standard error": _standard_error(paired),
    }


def _ours(run: Figures) -> Method:
    """The default of `suspects` among the methods of a run."""
    return next(method for method in run["AUC"] if method[0] == DEFAULT)


def _standard_error(values: list[float]) -> float | None:
    """Of the mean; None of a single value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _measured(measure: str, methods: list[Method], cell: Cell, runs: list[Figures]) -> dict[str, Any]:
    """Mean and, over several seeds, standard deviation of a measure, method by method; None where it does not apply."""
    row: dict[str, Any] = {"table": measure, "cell": cell.name, "seeds": len(runs)}
    for method in methods:
        values = [run[measure][method] for run in runs if method in run[measure]]
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        row[" @".join(method)] = f"{statistics.mean(values):.3f}{spread}" if values else None
    return row


def _orders(cell: Cell, runs: list[Figures]) -> list[dict[str, Any]]:
    """AUC of second order minus first, FVM minus VM, and W minus S, paired by seed, with standard errors."""
    by_name = [{method: value for (method, _), value in run["AUC"].items()} for run in runs]
    plain = [name.replace("FVM", "VM") for name in SECOND_ORDER]
    pairs = [*product((*SECOND_ORDER, *plain), FIRST_ORDER), *zip(SECOND_ORDER, plain, strict=True), SECOND_ORDER[::-1]]
    rows = []
    for one, other in pairs:
        if one not in by_name[0] or other not in by_name[0]:
            continue
        values = [run[one] - run[other] for run in by_name]
        rows.append(
            {
                "table": "Second order against first: paired differences of AUC",
                "cell": cell.name,
                "difference": f"{one} - {other}",
                "mean": statistics.mean(values),
                "standard error": _standard_error(values),
                "seeds": len(values),
            }
        )
    return rows
