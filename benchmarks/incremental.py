"""What it costs to append 1 % of the rows of a store, to retire some, and to compact; and if the answers are right.

A store of 100,000 jittered digits at the gradients of an MLP of 12 million parameters, K = 256. What is done to it is
done to a store of 1,000 rows, too: it takes the same jobs and hardly any rows, and so tells what starting them costs.
Rows are appended several times, to the large store and the small one in turn, and the median of the differences counts:
from one start to the next, and from one minute of a machine to another, more changes than what is looked for.
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
from collections.abc import Callable, Iterator, Sequence
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


def changes(stores: Sequence[Store]) -> Iterator[tuple[str, list[dict[str, float]]]]:
    """Build, append, retire, compact: what each step took with each store, step by step."""
    steps: dict[str, Callable[[Store], dict[str, float]]] = {
        "build": lambda store: store.run(store.rows),
        **{f"append {n}": partial(appended, n=n) for n in range(1, APPENDS + 1)},
        "retire, in force": Store.retire,
        "retire, tables": partial(appended, n=APPENDS),
        "compact": Store.compact,
    }
    for name, step in steps.items():
        yield name, [counted(store, step) for store in stores]


def appended(store: Store, n: int) -> dict[str, float]:
    """Bring the run up to date after so many appends."""
    return store.run(after(store.rows, n))


def counted(store: Store, step: Callable[[Store], dict[str, float]]) -> dict[str, float]:
    """What a step took, with the rows that it captured."""
    before = store.stores()
    took = step(store)
    return {**took, "captured": captured(before, store.stores())}


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


def rows_of(took: dict[str, list[dict[str, float]]], full: dict[str, float]) -> list[dict[str, Any]]:
    """A row for each step; of the appends one, with the medians of all figures."""
    rows = []
    for name in dict.fromkeys("append" if name.startswith("append ") else name for name in took):
        same = [pair for each, pair in took.items() if each == name or each.startswith(f"{name} ")]
        cost, start = ({key: statistics.median(pair[i][key] for pair in same) for key in same[0][i]} for i in (0, 1))
        beyond = statistics.median(large["cpu"] - small["cpu"] for large, small in same)
        rows.append({"what": name, "CPU s": cost["cpu"], "of full": cost["cpu"] / full["cpu"],
                     "start CPU s": start["cpu"], "beyond start, of full": beyond / full["cpu"],
                     "rows captured": int(cost["captured"]), "wall s": cost["wall"]})  # fmt: skip
    return rows


def main(rows: int = ROWS) -> None:
    """Measure, and fail where appending costs too much or an answer is another."""
    with tempfile.TemporaryDirectory() as scratch:
        store, small = Store(Path(scratch) / "large", rows), Store(Path(scratch) / "small", SMALL)
        took = dict(changes([store, small]))
        other, full = fresh(store, Path(scratch) / "fresh")
        off, every = difference(store, other), captured({}, other.stores())
    table = [{"what": "store built afresh", "CPU s": full["cpu"], "of full": 1.0, "start CPU s": None,
              "beyond start, of full": None, "rows captured": every, "wall s": full["wall"]},
             *rows_of(took, full)]  # fmt: skip
    pairs = [[cost["cpu"] for cost in pair] for name, pair in took.items() if name.startswith("append ")]
    appends = {"CPU s of each append, and of the same at 1,000 rows": pairs}
    keep("incremental", "python -m benchmarks incremental", table, threads=1, store_rows=rows, appended=SHARE,
         retired=1 / EVERY, against_a_fresh_store=off, **appends)  # fmt: skip
    print(off, appends)
    append = next(row for row in table if row["what"] == "append")
    if append["beyond start, of full"] > AT_MOST or off["other rows"]:
        raise SystemExit(f"expected at most {AT_MOST:.0%} beyond the start, and the same rows in every answer")


if __name__ == "__main__":
    main()
