"""`python -m benchmarks.peers.pairs NAME IN OUT`: scores of pairs by one peer, an array a method and setting.

Runs in the peers' environment. What a peer prints goes to standard error, and why a method failed into `OUT.failed`.
"""

from __future__ import annotations

import importlib
import json
import logging
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch

from benchmarks.peers import module_of
from benchmarks.peers.__main__ import reason
from benchmarks.peers.pairs import read
from benchmarks.timing import one_thread


def main() -> None:
    """Score by what the command line names."""
    name, source, target = sys.argv[1:]
    one_thread()
    found, failed = {}, {}
    with redirect_stdout(sys.stderr):
        for method, score in importlib.import_module(module_of(f"pairs.{name}")).METHODS.items():
            started = time.perf_counter()
            torch.manual_seed(0)
            try:
                for setting, scores in score(read(Path(source))):
                    found[f"{method}|{setting}"] = scores.detach().numpy().astype(np.float64)
            except Exception as error:
                logging.exception("%s: %s", name, method)
                failed[method] = reason(error)
            print(f"{name}, {method}: {time.perf_counter() - started:.1f} s", flush=True)
    np.savez(target, **found)
    Path(f"{target}.failed").write_text(json.dumps(failed), encoding="utf-8")


if __name__ == "__main__":
    main()
