"""`python -m benchmarks.peers NAME CASE K`: measure one peer on one case; a line of JSON for each of its methods.

Runs in the peers' environment. What a peer prints goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import traceback
from contextlib import redirect_stdout
from importlib.metadata import version
from typing import Any

from benchmarks.models import case
from benchmarks.peers import module_of, unmeasured
from benchmarks.timing import measure, one_thread, row

LONGEST = 200
"""Characters of a reason in a table."""


def measured(name: str, key: str, size: int, method: str) -> dict[str, Any]:
    """The row of one method."""
    engine = f"{name} {version(name)}"
    try:
        chosen = case(key)
        work = importlib.import_module(module_of(name)).METHODS[method](chosen, size)
        return row(chosen, engine, work, measure(chosen, case(key), work))
    except Exception as error:
        logging.exception("%s on %s: %s", name, key, method)
        return unmeasured(key, engine, method, f"not supported: {reason(error)}")


def reason(error: Exception) -> str:
    """An error in a line: its own first one, or the code that it comes from."""
    said = str(error).strip() or traceback.extract_tb(error.__traceback__)[-1].line or ""
    return f"{type(error).__name__}: {said.splitlines()[0] if said else ''}"[:LONGEST]


def main() -> None:
    """Measure what the command line names."""
    name, key, size = sys.argv[1:]
    one_thread()
    answers = sys.stdout
    with redirect_stdout(sys.stderr):
        for method in importlib.import_module(module_of(name)).METHODS:
            print(json.dumps(measured(name, key, int(size), method)), file=answers, flush=True)


if __name__ == "__main__":
    main()
