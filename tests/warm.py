"""One server of forks (`pipeline.cli.forks`) for all runs of the workflow that tests start: each would start its own."""

from __future__ import annotations

import atexit
from functools import cache

from pipeline.cli.forks import forking
from pipeline.warm import SERVER

COLD = {SERVER: ""}
"""The environment in which `lowland run` starts no server, and every job an interpreter."""


@cache
def environment() -> dict[str, str]:
    """What a process gets whose jobs shall be forked by this process's server."""
    server = forking(1)
    found = server.__enter__()
    atexit.register(server.__exit__, None, None, None)
    return {name: found[name] for name in (SERVER,) if name in found}
