"""What it costs to append 1 % of the rows of a store, to retire some, and to compact; and if the answers are right.

A store of 100,000 jittered digits at the gradients of an MLP of 12 million parameters, K = 256. What is done to it is
done to a store of 1,000 rows, too: it takes the same jobs and hardly any rows, and so tells what starting them costs.
Rows are appended several times, as one start costs more or less than the next by what is looked for.
Seconds are of CPU time of all processes, which a busy machine changes less than the clock. Full is a store built afresh
from the final data with the same checkpoints and projection; its answers are what those of the changed store are
compared with.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.tables import keep
from pipeline.shards import Plan
from pipeline.storage.artefact import Manifest, read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table

ROWS, SMALL, SHARE, EVERY = 100_000, 1_000, 0.01, 200
AT_MOST = 0.03
APPENDS = 5
"""Times that rows are appended, 1 % of the first ones each time."""
TASK = f"{Path(__file__).with_name('incremental_task.py')}:Jittered"
SETTINGS: dict[str, Any] = {
    "flatten": {"strength": 0.1, "watch": False, "steps": 100},
    "projection": {"dimension": 256},
    "report": {"evaluation": False},
    "index": {"factory": "Flat"},  # exact, so that answers can be compared row by row
}


class Store:
    """A run, and what it is asked to do."""

    def __init__(self, directory: Path, rows: int) -> None:
        self.directory, self.rows = directory, rows
        self.layout = Layout(directory / "run")
        directory.mkdir(parents=True)

    def run(self, rows: int, gone: int = 0) -> dict[str, float]:
        """Bring the run up to date with so many rows."""
        task = {"class": TASK, "options": {"trained_rows": self.rows}, "data": {"rows": rows, "gone": gone}}
        config = self.directory / "my.yaml"
        config.write_text(yaml.safe_dump({"task": task, **SETTINGS}), encoding="utf-8")
        return timed("run", "-c", str(config), "--workdir", str(self.layout.run), "--cores", "1")

    def retire(self) -> dict[str, float]:
        """Every 200th row; the next run takes them out of the tables."""
        count = Plan.load(self.layout.plan).splits["train"].rows
        rows = ",".join(str(row) for row in range(EVERY // 2, count, EVERY))
        return timed("retire", str(self.layout.run), "--rows", rows)

    def compact(self) -> dict[str, float]:
        """Rewrite the stores without the retired rows."""
        return timed("compact", str(self.layout.run))

    def stores(self) -> dict[Path, Manifest]:
        """The gradient stores of the train rows, at both checkpoints."""
        return {path: read_manifest(path) for path in self.layout.results.glob("gradients/*/train/*.json")}


def captured(before: dict[Path, Manifest], after: dict[Path, Manifest]) -> int:
    """Rows captured between two states of a run: of stores that are others now, those that were not copied."""
    new = [made for path, made in after.items() if path not in before or before[path].digest != made.digest]
    return sum(made.record["rows"] - made.record["copied"] for made in new)


def timed(*arguments: str) -> dict[str, float]:
    """CPU and wall seconds of a command."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "pipeline", *arguments], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu, "wall": time.perf_counter() - started}


def after(rows: int, appends: int = APPENDS) -> int:
    """How many rows there are after so many appends."""
    return rows + appends * int(SHARE * rows)


def changes(store: Store) -> dict[str, dict[str, float]]:
    """Build, append, retire, compact: what each took."""
    more = after(store.rows)
    steps = {
        "build": lambda: store.run(store.rows),
        **{f"append {n}": partial(store.run, after(store.rows, n)) for n in range(1, APPENDS + 1)},
        "retire, in force": store.retire,
        "retire, tables": lambda: store.run(more),
        "compact": store.compact,
    }
    took = {}
    for name, step in steps.items():
        before = store.stores()
        took[name] = step()
        took[name]["captured"] = captured(before, store.stores())
    return took


def fresh(store: Store, directory: Path) -> tuple[Store, dict[str, float]]:
    """The final rows in a store of their own, at the same checkpoints and projection."""
    other = Store(directory, store.rows)
    for name in ("checkpoints", "projection"):
        shutil.copytree(store.layout.results / name, other.layout.results / name)
    return other, other.run(after(store.rows), EVERY)


def difference(store: Store, other: Store) -> dict[str, Any]:
    """Top-k and scores of the changed store against those of the fresh one."""
    rows = after(store.rows)
    kept = np.nonzero(np.arange(rows) % EVERY != EVERY // 2)[0]
    first, second = read_table(store.layout.topk), read_table(other.layout.topk)
    keys = ("query", "score", "direction", "rank")
    assert all(first[key] == second[key] for key in keys)
    values, expected = np.array(first["value"]), np.array(second["value"])
    same = np.array(first["row"]) == kept[np.array(second["row"])]
    s, wanted = (np.array(read_table(each.layout.scores, ["s"])["s"], float) for each in (store, other))
    return {"answers": len(same), "other rows": int((~same).sum()),
            "values off at most": float((np.abs(values - expected) / np.abs(expected)).max()),
            "S off at most": float((np.abs(s[kept] - wanted) / wanted).max())}  # fmt: skip


def median_of(took: dict[str, dict[str, float]], name: str) -> dict[str, float]:
    """What a step took; of a repeated one, the median of each figure."""
    same = [cost for what, cost in took.items() if what == name or what.startswith(f"{name} ")]
    return {figure: statistics.median(cost[figure] for cost in same) for figure in same[0]}


def main(rows: int = ROWS) -> None:
    """Measure, and fail where appending costs too much or an answer is another."""
    with tempfile.TemporaryDirectory() as scratch:
        store, small = Store(Path(scratch) / "large", rows), Store(Path(scratch) / "small", SMALL)
        took, starts = changes(store), changes(small)
        other, full = fresh(store, Path(scratch) / "fresh")
        off, every = difference(store, other), captured({}, other.stores())
    table = [{"what": "store built afresh", "CPU s": full["cpu"], "of full": 1.0, "start CPU s": None,
              "beyond start, of full": None, "rows captured": every,
              "wall s": full["wall"]}]  # fmt: skip
    steps = [name for name in took if not name.startswith("append ")]
    for name in [steps[0], "append", *steps[1:]]:
        cost, start = median_of(took, name), median_of(starts, name)
        table.append({"what": name, "CPU s": cost["cpu"], "of full": cost["cpu"] / full["cpu"],
                      "start CPU s": start["cpu"], "beyond start, of full": (cost["cpu"] - start["cpu"]) / full["cpu"],
                      "rows captured": int(cost["captured"]),
                      "wall s": cost["wall"]})  # fmt: skip
    appends = {name: [cost["cpu"] for what, cost in found.items() if what.startswith("append ")]
               for name, found in (("CPU s of each append", took), ("of each at 1,000 rows", starts))}  # fmt: skip
    keep("incremental", "python -m benchmarks incremental", table, threads=1, store_rows=rows, appended=SHARE,
         retired=1 / EVERY, against_a_fresh_store=off, **appends)  # fmt: skip
    print(off, appends)
    appended = next(row for row in table if row["what"] == "append")
    if appended["beyond start, of full"] > AT_MOST or off["other rows"]:
        raise SystemExit(f"expected at most {AT_MOST:.0%} beyond the start, and the same rows in every answer")


if __name__ == "__main__":
    main()
