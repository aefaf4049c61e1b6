"""What commands share: the run that they are about, its plan, and how rows are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from pipeline.errors import StoreError
from pipeline.storage.layout import Layout

RUN = click.argument("run", type=click.Path(path_type=Path), metavar="RUN")
"""The argument that names a run's directory."""

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


def layout_of(run: Path) -> Layout:
    """The places of a run that exists.

    Raises:
        StoreError: the directory holds no run.
    """
    layout = Layout(run)
    if not layout.plan.is_file():
        raise StoreError(
            f"expected the directory of a run, got {run}, which has no {layout.plan.relative_to(run)}; run `lowland "
            f"run --workdir {run}`"
        )
    return layout


def show(rows: Sequence[dict[str, Any]], as_json: bool, header: str) -> None:
    """Print rows as JSON, or as a table under a line of explanation."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=1))
        return
    click.echo(header)
    if not rows:
        return
    cells = [[_cell(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    widths = [max(len(names[i]), *(len(line[i]) for line in cells)) for i in range(len(names))]
    numeric = [isinstance(value, (int, float)) and not isinstance(value, bool) for value in rows[0].values()]
    for line in (names, *cells):
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
