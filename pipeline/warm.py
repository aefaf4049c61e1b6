"""Jobs without their start, the asking side: a stage that `lowland run` started is handed to its server of forks.

A job of a small run takes a tenth of a second, and its interpreter with torch two seconds. `pipeline.cli.forks` has
imported all that and forks a child for each job. This process only waits, ends as the child does, and takes the child
with it when it is killed. Where no server answers, or it works with another number of threads, the job starts as ever.

Imports nothing of ours and nothing heavy: that is its point.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

SERVER = "LOWLAND_SERVER"
"""Environment variable: the name of the server's socket."""
TAKEN = "taken"
"""What it says first of a job whose child it has forked; the child's exit code follows."""


def hand_over(arguments: list[str]) -> None:
    """Have a server do `python -m pipeline ARGUMENTS` and end with it; returns where the job is to be done here."""
    name = os.environ.get(SERVER)
    if not name or arguments[:1] != ["stage"]:
        return
    # the child hears of these signals by itself, or by this process being gone
    before = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGTERM)}
    job: dict[str, object] = {
        "arguments": arguments,
        "place": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "code": code(),
    }
    status = _ask(name, job)
    if status is None:
        for each, handler in before.items():
            signal.signal(each, handler)
        return
    if status < 0:
        os.kill(os.getpid(), -status)
    os._exit(status)


def abstract(name: str) -> str:
    """The address of a socket that is no file, so that nothing is left of it when its processes are killed."""
    return f"\0{name}"


def code() -> list[str | None]:
    """Which code this process runs: a server of other code takes no job."""
    return [sys.prefix, os.path.dirname(__file__), os.environ.get("PYTHONPATH")]  # noqa: PTH120


def _ask(name: str, job: dict[str, object]) -> int | None:
    """The exit code of the job, 1 where server and child are gone; None: no server has taken it."""
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(abstract(name))
            socket.send_fds(server, [b"\n"], [0, 1, 2])
            server.sendall(json.dumps(job).encode() + b"\n")
            said = server.makefile().read().split()
        except OSError:
            return None
        return int([*said, "1"][1]) if said[:1] == [TAKEN] else None
