"""How benchmarks print and keep what they measured: Markdown for people, JSON with the machine and versions."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(name: str, command: str, rows: Sequence[dict[str, Any]], **notes: Any) -> None:
    """Print rows as a Markdown table and write them to `results/<name>.json` and `.md`."""
    RESULTS.mkdir(exist_ok=True)
    made = {
        "command": command,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "libraries": {library: version(library) for library in ("torch", "numpy")},
        **notes,
    }
    (RESULTS / f"{name}.json").write_text(json.dumps({**made, "rows": list(rows)}, indent=1) + "\n", encoding="utf-8")
    text = f"`{command}`\n\n{markdown(rows)}\n"
    (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([_cell(row[name]) for name in names] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
