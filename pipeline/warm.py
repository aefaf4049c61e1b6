"""Jobs without their start, the asking side: a stage that `lowland run` started is handed to its server of forks.

A job of a small run takes a tenth of a second, and its interpreter with torch two seconds. `pipeline.cli.forks` has
imported all that and forks a child for each job. This process only waits, ends as the child does, and takes the child
with it when it is killed. Where no server takes the job, it starts as ever.

Imports nothing of ours and nothing heavy: that is its point.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys

SERVER = "LOWLAND_SERVER"
"""Environment variable: the name of the server's socket, and the secret that opens it; empty: no server is wanted."""
TAKEN = "taken"
"""What it says first of a job whose child it has forked; the child's exit code follows."""
LIGHT = "prepare"
"""A stage that seldom needs what the server has to import."""


def hand_over(arguments: list[str]) -> None:
    """Have a server do `python -m pipeline ARGUMENTS` and end with it; returns where the job is to be done here."""
    name, _, secret = os.environ.get(SERVER, "").partition(" ")
    if not name or arguments[:1] != ["stage"] or arguments[1:2] == [LIGHT]:
        return
    # the child hears of these signals by itself, or by this process being gone
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, signal.SIG_DFL) for each in numbers}
    job: dict[str, object] = {
        "arguments": arguments,
        "place": os.getcwd(),  # noqa: PTH109
        "environment": dict(os.environ),
        "code": code(),
        "secret": secret,
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
    """Which code this process runs, and where: a server of other code, or outside a job of Slurm, takes no job."""
    return [sys.prefix, os.path.dirname(__file__), *map(os.environ.get, ("PYTHONPATH", "SLURM_JOB_ID"))]  # noqa: PTH120


def owner(peer: socket.socket) -> int:
    """The user at the other end: the name of such a socket, unlike a file, is open to all."""
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return int(user)


def _ask(name: str, job: dict[str, object]) -> int | None:
    """The exit code of the job, 1 where server and child are gone; None: no server has taken it."""
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(abstract(name))
            if owner(server) != os.getuid():
                return None
            socket.send_fds(server, [b"\n"], [0, 1, 2])
            server.sendall(json.dumps(job).encode() + b"\n")
            said = server.makefile()
            if said.readline().strip() != TAKEN:
                return None
        except OSError:
            return None
        return int(said.readline().strip() or 1)
