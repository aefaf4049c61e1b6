"""Other libraries that capture per-sample gradients, one module each, run in an environment of their own.

`make bench` makes that environment from `requirements.txt` and `constraints.txt`. A module has `METHODS`: for each way
to capture, a function of a case and the K to come near to. It needs torch, the peer and `benchmarks.models`, nothing of
`pipeline`, and may fail: the reason is then what the table says.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.models import case

NAMES = ("bergson", "captum", "dattri", "dattri-llm", "kronfluence", "traker")
LIMIT_S = 300
ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-peers" / "bin" / "python"
"""The interpreter of the environment that `make bench` makes."""


def module_of(name: str) -> str:
    """The module that knows a peer."""
    return f"benchmarks.peers.{name.replace('-', '_')}"


def rows_of(python: str, name: str, key: str, size: int, limit_s: float = LIMIT_S) -> list[dict[str, Any]]:
    """Rows of a peer on a case, measured by the interpreter that has the peer; a failure is a row too."""
    printed, failed = run_peer(python, "benchmarks.peers", [name, key, str(size)], limit_s)
    found = [json.loads(line) for line in printed.splitlines()]
    return found + ([unmeasured(key, name, "-", failed)] if failed else [])


def run_peer(python: str, module: str, arguments: list[str], limit_s: float) -> tuple[str, str]:
    """What a module prints on one thread in the peers' environment, and why it failed; empty if it did not."""
    command = [python, "-W", "ignore", "-m", module, *arguments]
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    try:
        done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, timeout=limit_s,
                              capture_output=True, text=True, check=False)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        return printed, f"failed: stopped after {limit_s:.0f} s"
    end = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return done.stdout, f"failed: {end}" if done.returncode else ""


def unmeasured(key: str, engine: str, method: str, note: str) -> dict[str, Any]:
    """A row without figures, which says why."""
    empty = dict.fromkeys(("ratio_min", "ratio_median", "ratio_max", "peak_bytes"))
    return {"model": case(key).name, "engine": engine, "method": method, "K": "-", **empty, "note": note}
