"""An exact scan of a store that is four times its allowance: top 100 of 16 queries, against plain reading.

Peak memory is of a process that does nothing else. Times are of another one in which reading by plain zarr, the scan,
and a product of the same shape in memory take turns; the store is in the page cache for all of them.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from benchmarks.synthetic import draw, train_codes, write_run
from benchmarks.tables import keep
from benchmarks.timing import _status as status
from benchmarks.timing import seconds
from pipeline.core.codec import fit_codec
from pipeline.steps.codes import CodeSet
from pipeline.steps.retrieve import exact_search
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import Workers

STORE_BYTES = 2**32
ALLOWED_BYTES = 2**30
BESIDE_BYTES = 37
"""Norms, losses, flags and content hashes of a row."""
ENCODINGS = ("mixed", "int8")
SHARD_ROWS = 262_144
QUERIES, BEST = 16, 100
THREADS = 1
RUNS = 3
PRODUCT_ROWS = 65_536
READ_ROWS = 16_384
READ = ("codes", "block_scale", "row_scale", "norm_code", "flag")
"""What a scan needs of a row."""


def queries() -> np.ndarray:
    """Vectors in the directions that preconditioning prefers."""
    return np.linalg.solve(
        np.cov(draw(np.random.default_rng(2), 8192).T) + 1e-4 * np.eye(1024), draw(np.random.default_rng(3), QUERIES).T
    ).T


def scan(codes: CodeSet, vectors: np.ndarray) -> None:
    """Exact top 100."""
    exact_search(codes, "influence", vectors, BEST, False, Workers(THREADS, ALLOWED_BYTES))


def read(codes: CodeSet) -> None:
    """The same bytes through plain zarr, a few chunks at a time."""
    for shard in codes.shards:
        group = zarr.open_group(str(shard.path), mode="r")
        for start in range(0, group["codes"].shape[0], READ_ROWS):
            for name in READ:
                group[name][start : start + READ_ROWS]


def product(rows: int, block: np.ndarray, vectors: np.ndarray) -> None:
    """[rows, K] @ [K, 16] in float32, block by block from memory."""
    for _ in range(math.ceil(rows / len(block))):
        block @ vectors


def in_a_process(what: str, run: Path) -> dict[str, Any]:
    """`peak` or `times` in a process of its own."""
    environment = {
        **os.environ,
        **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(THREADS)),
    }
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scan", what, str(run)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def peak(run: Path) -> dict[str, Any]:
    """Most bytes resident in a process that scans, all told: interpreter, libraries, blocks."""
    scan(train_codes(Layout(run)), np.load(run / "queries.npy"))
    return {"peak_bytes": status("VmHWM")}


def times(run: Path) -> dict[str, Any]:
    """Seconds of reading, scanning and multiplying, in turn."""
    codes, vectors = train_codes(Layout(run)), np.load(run / "queries.npy")
    block, turned = np.ones((PRODUCT_ROWS, vectors.shape[1]), np.float32), vectors.T.astype(np.float32)
    works: dict[str, Callable[[], None]] = {
        "read": lambda: read(codes),
        "scan": lambda: scan(codes, vectors),
        "product": lambda: product(codes.rows, block, turned),
    }
    return {"seconds": [{name: seconds(work) for name, work in works.items()} for _ in range(RUNS)]}


def main() -> None:
    """Write the store, measure, and fail where the scan held more than it may."""
    table = [row for encoding in ENCODINGS for row in of_encoding(encoding)]
    keep("scan", "python -m benchmarks scan", table, threads=THREADS, allowed_bytes=ALLOWED_BYTES)
    held = max(row["peak_bytes"] for row in table)
    if held >= ALLOWED_BYTES:
        raise SystemExit(f"expected a peak below {ALLOWED_BYTES} bytes, got {held}")


def of_encoding(encoding: str) -> list[dict[str, Any]]:
    """Rows of the table for a store of an encoding."""
    size = fit_codec(encoding, draw(np.random.default_rng(0), 512)).row_bytes + BESIDE_BYTES
    rows = -(-STORE_BYTES // size)
    with tempfile.TemporaryDirectory(prefix="scan-") as scratch:
        run = Path(scratch)
        write_run(run, rows, SHARD_ROWS, 64, distinct=32_768, encoding=encoding)
        np.save(run / "queries.npy", queries())
        held = in_a_process("peak", run)["peak_bytes"]
        measured = in_a_process("times", run)["seconds"]
    return [
        {"codec": encoding, "of runs": name, "rows": rows, "store_bytes": rows * size, "allowed_bytes": ALLOWED_BYTES,
         "peak_bytes": held, **_ratios(rows * size, of, measured)}
        for name, of in (("min", min), ("median", statistics.median))
    ]  # fmt: skip


def _ratios(size: int, of: Callable[[list[float]], float], measured: list[dict[str, float]]) -> dict[str, float]:
    found = {name: of([run[name] for run in measured]) for name in measured[0]}
    ratios = {name: of([run["scan"] / run[name] for run in measured]) for name in ("read", "product")}
    return {"scan s": found["scan"], "read s": found["read"], "product s": found["product"],
            "scan GB/s": size / found["scan"] / 1e9,
            "scan / read": ratios["read"], "scan / product": ratios["product"]}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"peak": peak, "times": times}[sys.argv[1]](Path(sys.argv[2]))))
