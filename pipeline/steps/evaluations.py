"""What the report shows of evaluations: the tables that were made, each with its figure.

A table that is no part of a run stands as it was made; where the scores of the run are newer, this is said.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.core.grouped import BEST
from pipeline.report.data import Bar, Bars, Evaluation, EvaluationRow, Lines, Series
from pipeline.storage.artefact import manifest_path, open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table

Row = dict[str, Any]

CURVES = 6
"""Scores whose curves are drawn: as many as there are colours."""
SUBSETS = {
    "lds-half": "models on random halves of the train rows",
    "lds-most": "models on the subsets of memorisation",
    "lds-single": "models without one row",
}
REMOVED = {
    "retraining-removal": "suspects",
    "retraining-cleansing": "suspects",
    "retraining-memorised": "memorised rows",
}


def evaluations(layout: Layout) -> list[Evaluation]:
    """All that were made, in the order in which `lowland evaluate` prints them."""
    return [
        *_mislabel(layout),
        *_relabel(layout),
        *_retrieval(layout),
        *(each for table in SUBSETS for each in _lds(layout, table)),
        *(each for table in REMOVED for each in _retraining(layout, table)),
        *_replay(layout),
        *_memorised(layout),
        *_stability(layout, "stability", "Are the best rows the same under other dampings?", "changed"),
        *_stability(layout, "against", "Are the best rows the same in other runs?", "against"),
    ]


def _rows(layout: Layout, table: str) -> list[Row]:
    path = layout.evaluation(table)
    if not manifest_path(path).is_file():
        return []
    found: list[Row] = open_artefact(path, "evaluation").record["rows"]
    return found


def _age(layout: Layout, table: str) -> str:
    """A word where the run has been computed anew since."""
    written = [open_artefact(path, kind).record["written"] for path, kind in
               ((layout.evaluation(table), "evaluation"), (layout.scores, "scores"))]  # fmt: skip
    return (
        "This table is older than the scores of the run: `lowland evaluate` makes it anew."
        if written[0] < written[1]
        else ""
    )


def _plain(rows: list[Row], measures: dict[str, str], notes: list[str] | None = None) -> list[EvaluationRow]:
    """Rows of a table with some of its columns, by the names that the page prints."""
    notes = notes or [""] * len(rows)
    return [
        EvaluationRow(
            row["method"], row["checkpoint"], {name: row[key] for name, key in measures.items()}, row["control"], note
        )
        for row, note in zip(rows, notes, strict=True)
    ]


def _at(row: Row, name: str = "method") -> str:
    """A score with its checkpoint."""
    return str(row[name]) if row["checkpoint"] == "none" else f"{row[name]}, {row['checkpoint']}"


def _group(row: Row) -> str:
    return "simple controls" if row["control"] else "scores"


def _mislabel(layout: Layout) -> Iterator[Evaluation]:
    rows = _rows(layout, "mislabel")
    measures = {"AUC": "auc", "average precision": "average_precision", "recall at the noise rate": "recall_at_rate"}
    if rows:
        yield Evaluation(
            _plain(rows, measures, [f"{row['rows']} rows" for row in rows]),
            "Which labels are wrong?",
            "the task's true labels",
            chart=_recall(layout, rows),
        )


def _recall(layout: Layout, rows: list[Row]) -> Lines | None:
    """Recall over the rows inspected, of the scores of largest AUC."""
    path = layout.evaluation("recall")
    if not manifest_path(path).is_file():
        return None
    table = read_table(path)
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for method, checkpoint, count, recall in zip(
        *(table[name] for name in ("method", "checkpoint", "inspected", "recall")), strict=True
    ):
        curves.setdefault((method, checkpoint), []).append((count, recall))
    best = sorted(rows, key=lambda row: -row["auc"])[:CURVES]
    series = [Series(_at(row), np.array(curves[row["method"], row["checkpoint"]]), row["control"]) for row in best]
    caption = (
        "Share of the wrong labels among the rows inspected, most suspicious first; "
        f"the {len(best)} scores of largest AUC, controls dashed."
    )
    return Lines("Wrong labels found", caption, series, "train rows inspected", "share of the wrong labels")


def _relabel(layout: Layout) -> Iterator[Evaluation]:
    rows = _rows(layout, "relabel")
    if rows:
        notes = [f"{row['rows']} of {row['wrong']} wrong rows" for row in rows]
        yield Evaluation(
            _plain(rows, {"share right": "accuracy"}, notes),
            "What should wrong labels have been?",
            "the task's true labels",
        )


def _retrieval(layout: Layout) -> Iterator[Evaluation]:
    measures = {"AUC": "auc", "recall": "recall", **{f"share of the best {k}": f"share of the best {k}" for k in BEST}}
    rows = _rows(layout, "retrieval")
    if rows:
        yield Evaluation(_plain(rows, measures), "Which train rows are of a query's own group?", "the task's groups")


def _lds(layout: Layout, table: str) -> Iterator[Evaluation]:
    """One for each response; the ceiling is a line across."""
    rows = [row for row in _rows(layout, table) if row["lds"] == row["lds"]]  # one model a subset has no ceiling
    for response in dict.fromkeys(row["response"] for row in rows):
        own = [row for row in rows if row["response"] == response]
        bars = [
            Bar(_at(row), row["lds"], row["low"], row["high"], _group(row)) for row in own if row["low"] is not None
        ]
        tops = [("ceiling", row["lds"]) for row in own if row["low"] is None]
        caption = (
            f"Rank correlation with the response over {own[0]['subsets']} subsets, mean over the queries; lines: 95 % "
            "of bootstrap draws of queries and subsets."
        )
        chart = Bars(f"LDS, {response}", caption, bars, "LDS", tops)
        measures = {"LDS": "lds", "low": "low", "high": "high"}
        question = f"Which scores predict models on other rows? Response: {response}"
        yield Evaluation(_plain(own, measures), question, SUBSETS[table], _age(layout, table), chart)


def _retraining(layout: Layout, table: str) -> Iterator[Evaluation]:
    rows = _rows(layout, table)
    if not rows:
        return
    named = [{**row, "method": row["rows"]} for row in rows]
    treated = sorted((row for row in named if row["action"] != "nothing"), key=lambda row: row["action"])
    figure, unit = ("metric", 1) if "metric" in rows[0] else ("accuracy", 100)
    caption = f"Gain in test {figure} over training on all rows as they are; lines: one standard error, paired by seed."
    chart = Bars(f"{figure.capitalize()} gained", caption, [_gained(row, unit) for row in treated],
                 f"points of {figure}" if unit > 1 else figure)  # fmt: skip
    measures = {figure: figure, "gain": "over_whole", "± error": "over_whole_error",
                "gain over control": "over_control", "± its error": "over_control_error"}  # fmt: skip
    question = f"What do models gain without {REMOVED[table]}?"
    truth = f"the test {figure} of models that were trained again"
    yield Evaluation(_plain(named, measures, [_done(row) for row in rows]), question, truth, _age(layout, table), chart)


def _gained(row: Row, unit: int) -> Bar:
    """The gain over all rows, in parts of 1 or points of a hundred, and a standard error to each side."""
    value, error = unit * row["over_whole"], unit * row["over_whole_error"]
    return Bar(f"{_at(row)}: {row['action']}", value, value - error, value + error, row["action"])


def _done(row: Row) -> str:
    """What was done, to how many rows."""
    return " ".join([row["action"], *(str(row[name]) for name in ("removed", "relabelled") if row[name])])


def _replay(layout: Layout) -> Iterator[Evaluation]:
    rows = _rows(layout, "replay")
    if rows:
        measures = {"Kendall's tau": "kendall", "worst tenth in common": "harmful", "gain without it": "gain",
                    "spread": "spread"}  # fmt: skip
        notes = [f"last {row['epochs']} epochs" for row in rows]
        truth = "the joint training's last epochs, replayed"
        yield Evaluation(_plain(rows, measures, notes), "What does the metric lose without a row?", truth,
                         _age(layout, "replay"))  # fmt: skip


def _memorised(layout: Layout) -> Iterator[Evaluation]:
    """The long tail."""
    rows = _rows(layout, "memorised")
    if not rows:
        return
    values = np.asarray(read_table(layout.evaluation("memorisation"), ["memorisation"])["memorisation"], float)
    values = np.sort(values[np.isfinite(values)])[::-1]
    share = 100 * np.arange(1, len(values) + 1) / max(len(values), 1)
    caption = "Train rows from the most memorised to the least: P[right | trained on] − P[right | not]."
    chart = Lines("The long tail", caption, [Series("memorisation", np.column_stack([share, values]))],
                  "train rows, per cent", "memorisation")  # fmt: skip
    plain = [
        EvaluationRow(row["figure"], "none", {"value": row["value"]}, False, f"{row['models']} models") for row in rows
    ]
    yield Evaluation(
        plain, "Which rows are known by heart?", "models on random subsets", _age(layout, "memorised"), chart
    )


def _stability(layout: Layout, table: str, question: str, what: str) -> Iterator[Evaluation]:
    rows = _rows(layout, table)
    if not rows:
        return
    note = f"{open_artefact(layout.evaluation(table), 'evaluation').record['note'].capitalize()}. {_age(layout, table)}"
    plain = [
        EvaluationRow(row["score"], row["checkpoint"],
                      {name: row[name] for name in ("overlap", "error", "chance", "spearman")},
                      note=f"{row['answers']}, k = {row['k']:g}, {row[what]}")
        for row in rows
    ]  # fmt: skip
    yield Evaluation(plain, question, "", note.strip())
