"""How a job's process ends: at once, with all done that was left to the end.

Taking apart an interpreter with all that a job has imported takes about a second. Light to import.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
from collections.abc import Callable

CODES: list[int] = []
"""The exit code of a job that was done in this process."""


def prepare() -> None:
    """Have this process end at once when a job was done in it; before all else that registers for the end."""
    atexit.register(_end)  # what is registered first comes last


def do(job: Callable[[list[str]], None], arguments: list[str]) -> None:
    """Do a job that ends by SystemExit or by returning."""
    try:
        job(arguments)
    except SystemExit as end:
        if isinstance(end.code, int):
            CODES.append(end.code)
        raise
    CODES.append(0)


def _end() -> None:
    """The last that Python does at exit: threads have been waited for by then, and what is open is flushed here.

    What cannot be flushed is left to the interpreter's own end, which says so.
    """
    if not CODES:
        return
    with contextlib.suppress(Exception):
        files = [each for each in gc.get_objects() if issubclass(type(each), io.IOBase)]
        for each in (*files, sys.stdout, sys.stderr):  # those of before a fork are not among the objects
            if not each.closed:
                each.flush()
        os._exit(CODES[0])
