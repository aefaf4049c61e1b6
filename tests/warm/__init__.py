"""Jobs of test runs without their start: a server that has imported everything forks one for each.

A job of a tiny workflow takes a tenth of a second and its interpreter with torch two seconds. With `environment()`, a
process that is started as `python -m pipeline stage ...` hands its arguments, directory, environment and streams to the
server (`hook/sitecustomize.py`), whose child does the job; it waits and ends as the child does. Where it is killed, so is the
child. What starts jobs, their order, locks and logs are as ever. Code from another tree (PYTHONPATH) starts as ever, too.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

HOOK = Path(__file__).parent / "hook"
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """What a process gets whose jobs shall start warm."""
    return {"LOWLAND_WARM": _started(), "PYTHONPATH": str(HOOK)}


@cache
def _started() -> str:
    """The socket of this process's server, which ends with it."""
    directory = tempfile.TemporaryDirectory(prefix="warm-")
    address = f"{directory.name}/socket"
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.warm.server", address],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert server.stdin and server.stdout
    assert server.stdout.readline() == b"ready\n"

    def end() -> None:
        server.stdin.close()
        server.wait()
        directory.cleanup()

    atexit.register(end)
    return address
