"""Tables of an evaluation: parquet for machines, Markdown for people, and the rows in the manifest for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.steps.job import Job
from pipeline.storage.artefact import write_whole
from pipeline.storage.tables import write_table

Row = Mapping[str, Any]


def write_evaluation(job: Job, table: str, rows: Sequence[Row], identity: Mapping[str, Any], note: str) -> None:
    """Write `evaluation/<table>.parquet`, with its rows in the manifest, and `evaluation/<table>.md`.

    Args:
        job: of the stage.
        table: its name.
        rows: of equal keys.
        identity: what it was made from.
        note: what the figures mean, for the headers of both.
    """
    path = job.layout.evaluation(table)
    write_whole(path.with_suffix(".md"), f"{note}\n\n{markdown(rows)}\n", alone=True)
    with job.writing(path, "evaluation", {**identity, "table": table}) as (place, record):
        write_table(place, {name: [row[name] for row in rows] for name in (rows or [{}])[0]}, {"note": note})
        record["rows"] = [dict(row) for row in rows]
        record["note"] = note


def markdown(rows: Sequence[Row]) -> str:
    r"""Rows as a Markdown table.

    >>> print(markdown([{"method": "a|b", "auc": 0.51234}]))
    | method | auc |
    | --- | --- |
    | a\|b | 0.5123 |
    """
    if not rows:
        return "(no rows)"
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else ""
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
