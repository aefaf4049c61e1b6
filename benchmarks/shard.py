"""What a job costs beside its work: the share of a shard's time that a shard of one row takes, too.

Two jobs of the stage `gradients` for each model, as the workflow's rules start them: a full shard of the default size,
and a shard of one row, whose time is all start, imports, loading and proof of the engine. One thread, wall time, the
median of three.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.models import CASES
from benchmarks.tables import keep
from pipeline import config as settings
from pipeline.shards import Plan, settled_rows
from pipeline.storage.layout import Layout
from pipeline.tasks.cost import forward_operations

RUNS = 3
TASK = f"{Path(__file__).with_name('shard_task.py')}:Sized"
AT_MOST = 0.2


def stage(directory: Path, config: settings.Config, name: str, *where: str) -> float:
    """Seconds of one job."""
    given = ["--config", json.dumps(settings.sections(config, name)), *where]
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", "stage", name, *given], check=True, cwd=directory,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    return time.perf_counter() - started


def measured(key: str, directory: Path) -> dict[str, Any]:
    """A full shard and one of one row."""
    from benchmarks.shard_task import Sized

    rows = settled_rows(forward_operations(Sized(key, 8)))
    overlay = {"task": {"class": TASK, "options": {"key": key, "rows": rows}}}
    config = settings.validate(settings.merge(settings.defaults(), overlay))
    stage(directory, config, "prepare", "--whole", json.dumps(config.plain()))
    stage(directory, config, "train")
    fit = stage(directory, config, "projection", "--checkpoint", "trained")
    assert Plan.load(Layout(directory).plan).splits["train"].shards[0].rows == rows

    def shard(split: str) -> float:
        where = ("--checkpoint", "trained", "--split", split, "--shard", "00000")
        times = []
        for _ in range(RUNS):
            shutil.rmtree(directory / "results/gradients", ignore_errors=True)  # or rows are copied from there
            times.append(stage(directory, config, "gradients", *where))
        return statistics.median(times)

    whole, one = shard("train"), shard("validation")
    return {"model": key, "rows of a shard": rows, "shard s": whole, "one row s": one, "fixed share": one / whole,
            "fit of the projection s": fit}  # fmt: skip


def main() -> None:
    """Measure all models, and fail where the fixed share is too large."""
    rows = []
    for key in CASES:
        with tempfile.TemporaryDirectory() as scratch:
            rows.append(measured(key, Path(scratch)))
        print(f"{key}: {rows[-1]['fixed share']:.0%} fixed", flush=True)
    keep("shard", "python -m benchmarks shard", rows, threads=1, runs=RUNS, at_most=AT_MOST)
    slow = [row["model"] for row in rows if row["fixed share"] > AT_MOST]
    if slow:
        raise SystemExit(f"expected a fixed share of at most {AT_MOST:.0%}, got more for {', '.join(slow)}")


if __name__ == "__main__":
    main()
