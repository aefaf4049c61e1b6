"""How benchmarks print and keep what they measured: Markdown for people, JSON with the machine and versions.

Times of a busy machine are printed, not kept: where other processes took more than `OTHERS_AT_MOST` of a core beyond
those that were left to them, on average since this module was imported, the files go to the system's folder for
temporary ones. How much others took is kept.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OTHERS_AT_MOST = 0.25
BYTES_PER_MIB = 2**20

Row = dict[str, Any]


def spent() -> tuple[float, float | None]:
    """Seconds of the clock, and of CPU time that all other processes took, where the system tells (Linux)."""
    try:
        line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return time.monotonic(), None
    user, nice, system = (int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in line.split()[1:4])
    return time.monotonic(), user + nice + system - sum(os.times()[:4])  # own time, and of children that have ended


STARTED = spent()


def others(before: tuple[float, float | None], now: tuple[float, float | None]) -> float:
    """How many cores other processes kept busy between two calls of `spent`; 0 where the system does not tell."""
    if before[1] is None or now[1] is None:
        return 0.0
    return (now[1] - before[1]) / max(now[0] - before[0], 1e-9)


def keep(
    name: str, command: str, rows: Sequence[Row], by: str | None = None, threads: int | None = None, **notes: Any
) -> None:
    """Print rows as a Markdown table, or as one for each value of column `by`, and write them to `results/<name>.*`.

    Args:
        name: of the files.
        command: that makes them.
        rows: the table.
        by: a column.
        threads: that what was timed ran on; None: no times are among the figures.
        notes: more for the JSON.
    """
    busy = others(STARTED, spent())
    made = {
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "libraries": {library: version(library) for library in ("torch", "numpy")},
        **({} if threads is None else {"threads": threads, "cores_taken_by_others": round(busy, 2)}),
        **notes,
    }
    text = f"`{command}`\n\n{grouped(rows, by) if by else markdown(rows)}\n"
    left = (os.cpu_count() or 1) - (threads or 0)
    directory = (
        RESULTS if threads is None or busy <= left + OTHERS_AT_MOST else Path(tempfile.mkdtemp(prefix="benchmarks-"))
    )
    directory.mkdir(exist_ok=True)
    record = json.dumps({**made, "rows": list(rows)}, indent=1)
    (directory / f"{name}.json").write_text(record + "\n", encoding="utf-8")
    (directory / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
    if directory != RESULTS:
        print(f"not kept, since other processes took {busy:.2f} cores meanwhile: {directory}/{name}.md")


def grouped(rows: Sequence[Row], by: str) -> str:
    """A table for each run of rows with the same value of column `by`, under that value."""
    parts = [(value, list(group)) for value, group in groupby(rows, lambda row: row[by])]
    return "\n\n".join(f"### {value}\n\n{markdown([_without(row, by) for row in group])}" for value, group in parts)


def markdown(rows: Sequence[Row]) -> str:
    """Rows of equal keys as a Markdown table; a column of bytes is shown in MiB."""
    names = list(rows[0])
    heads = [name.replace("_bytes", " MiB") for name in names]
    lines = [heads, ["---"] * len(names), *([_cell(name, row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _without(row: Row, name: str) -> Row:
    return {key: value for key, value in row.items() if key != name}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name.endswith("_bytes"):
        return f"{value / BYTES_PER_MIB:.1f}"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.0f}"
    return str(value).replace("|", "\\|").replace("\n", " ")
