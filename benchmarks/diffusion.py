"""What taught a diffusion model its samples: detection rates of DMin, flat-minimum and other estimators, and controls.

A small class-conditional U-Net learns three sets of images (digits, letters, patterns). Queries are samples that it
generates (DDIM, seeded) and held-out images. *Detection rate@k*: the share of a query's top k train images that are of
its own set, or, which is harder, of its own class; what chance gives stands in the table. The label embedding, which
alone would tell the class, is left out of all gradients.

`python -m benchmarks diffusion` is the small setting, one seed; `python -m benchmarks.diffusion --seeds 5 --train 400`
is larger. Retraining without a class shows whether influence had the right sign on ten generated samples.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.diffusion_runs import (
    LEFT_OUT,
    Array,
    Made,
    Setting,
    Values,
    parameters,
    prepared,
    queries_of,
    stored,
)
from benchmarks.tables import keep
from pipeline.core.agreement import recall_at_k
from pipeline.steps.codes import blocks
from pipeline.steps.stores import open_codes
from pipeline.steps.tasks import model_at
from pipeline.storage import indexes
from pipeline.tasks.base import Task
from pipeline.tasks.checks import row_set
from pipeline.tasks.small_diffusion import SmallDiffusion

SIZES = (2**8, 2**10, 2**12, 2**14, 2**16)
MAIN = 2**12
FACTORY, BREADTH = "HNSW16", 500  # the paper's
SEPARATE = {"parts": "separate", "normalise": "part", "codec": "int8", "exclude": ["label*"]}
SUMMED = {"exclude": ["label*"]}
RANDOM = {"method": "sjlt"}  # TRAK's projection is a random one
FLAT = {"strength": 0.2, "watch": False, "steps": 60, "batch_rows": 16}
GROUPS = ("set", "class")
STARTED = time.monotonic()
ASKED = 10
"""Generated samples whose influence is checked by retraining, of the classes that are left out."""


def rates(scores: Array, groups: dict[str, tuple[Array, Array]]) -> Values:
    """Detection rates@5 and @10 by set and class, shares: [q, N] scores and (query, train) groups."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return {f"{kind}@{k}": float((train[order[:, :k]] == query[:, None]).mean())
            for kind, (query, train) in groups.items() for k in (5, 10)}  # fmt: skip


def by_kind(name: str, scores: Array, truth: Truth, **more: Any) -> list[Values]:
    """Rows of the table: of generated samples, and of held-out images."""
    halves = {"generated": slice(0, truth.generated), "held out": slice(truth.generated, None)}
    return [{"queries": kind, "method": name, **rates(scores[part], truth.part(part)), **more}
            for kind, part in halves.items()]  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """Groups of queries and train rows, by set and by class; the first queries are generated."""

    query: dict[str, Array]
    train: dict[str, Array]
    generated: int

    def part(self, rows: slice) -> dict[str, tuple[Array, Array]]:
        """Of some queries."""
        return {kind: (self.query[kind][rows], self.train[kind]) for kind in GROUPS}

    def chance(self) -> Array:
        """Scores that know nothing."""
        shape = len(self.query["set"]), len(self.train["set"])
        return np.random.default_rng(0).random(shape)


def one_seed(scratch: Path, setting: Setting) -> tuple[list[Values], list[Values], Values]:
    """Detection rates, the index, and what retraining says."""
    first = prepared(scratch / "first", {"options": setting.options()})
    weights, model = first.layout.checkpoint("trained"), model_at(first.task, first.layout, "trained")
    say("trained")
    files = queries_of(first.task, model, setting, scratch)
    task = {"options": setting.options(), "data": {"queries": str(files[0])}}
    told = {}
    for kind in GROUPS:
        named = {**task, "options": setting.options(groups=kind)}
        told[kind] = prepared(scratch / f"truth-{kind}", named, weights).task
    query, train = ({kind: np.array(each.groups(split)) for kind, each in told.items()} for split in ("query", "train"))
    truth = Truth(query, train, generated=3 * setting.queries)
    table = controls(told["set"], model, truth)
    main = None
    for size in SIZES:
        sketch = {"method": "dmin", "dimension": size, "sample_rows": 64}
        made = prepared(scratch / f"dmin-{size}", task, weights, projection=sketch, gradients=SEPARATE)
        made.captured("trained", False)
        exact = size > parameters(made)
        note = f"DMin, K = 2^{size.bit_length() - 1}" + (", all coordinates" if exact else "")
        found = timed_pairs(made)
        table += by_kind(note, found[0], truth, bytes_a_row=stored(made), query_ms=found[1])
        say(note)
        main = made if size == MAIN else main
    assert main is not None
    sketch = {"method": "dmin", "dimension": MAIN, "sample_rows": 64}
    plain = prepared(scratch / "plain", task, weights, projection=sketch, curvature={"kind": "identity"},
                     gradients={**SEPARATE, "normalise": "none"})  # fmt: skip
    plain.captured("trained", True)
    table += by_kind("DMin, K = 2^12, no normalisation", plain.pairs("influence", "trained"), truth)
    table += summed(scratch, setting, weights, files, truth)
    return table, [searched(main, truth)], retrained(scratch, setting, plain, main, model)


def summed(scratch: Path, setting: Setting, weights: Path, files: tuple[Path, Path], truth: Truth) -> list[Values]:
    """Estimators on the gradient of the whole loss: K = 2048, defaults."""
    task = {"options": setting.options(), "data": {"queries": str(files[0])}}
    table = []
    whole = prepared(scratch / "sum", task, weights, gradients=SUMMED, flatten=FLAT).captured("trained", True)
    for name, title in (("cosine", "cosine of the whole loss"), ("tracin", "TracIn, last checkpoint"),
                        ("datainf", "DataInf"), ("influence", "classical influence")):  # fmt: skip
        table += by_kind(title, whole.pairs(name, "trained"), truth)
    for method, title in (("sam", "FVM, single point (SAM)"), ("plain", "VM, single point")):
        made = whole if method == "sam" else prepared(scratch / "vm", task, weights, gradients=SUMMED,
                                                      flatten={**FLAT, "method": "plain"})  # fmt: skip
        made.stage("flatten")
        made.captured("flat", True)
        table += by_kind(title, made.pairs("fvm", "flat"), truth)
        table += by_kind(f"influence at that minimum ({method})", made.pairs("influence", "flat"), truth)
        say(title)
    square = {"options": setting.options(measure="square"), "data": {"queries": str(files[0])}}
    journey = {"options": setting.options(), "data": {"queries": str(files[1])}}
    for title, described in (("D-TRAK", square), ("Journey-TRAK", journey)):
        made = prepared(scratch / title, described, weights, gradients=SUMMED, projection=RANDOM).captured(
            "trained", True
        )
        table += by_kind(title, made.pairs("trak", "trained"), truth)
        say(title)
    return table


def controls(task: SmallDiffusion, model: torch.nn.Module, truth: Truth) -> list[Values]:
    """Chance, and nearest neighbours of pixels and of what the U-Net's lowest blocks make of images."""
    counts = {split: len(groups["set"]) for split, groups in (("query", truth.query), ("train", truth.train))}
    batches = {split: row_set(task, split).batch(range(count)) for split, count in counts.items()}
    pixels = {split: batch["clean"][:, 0].flatten(1).numpy() for split, batch in batches.items()}
    with torch.no_grad():
        features = {split: task.features(model, batch).numpy() for split, batch in batches.items()}
    found = by_kind("chance", truth.chance(), truth)
    for name, space in (("nearest in pixels", pixels), ("nearest in the U-Net's features", features)):
        found += by_kind(name, -((space["query"][:, None] - space["train"][None]) ** 2).sum(2), truth)
    return found


def timed_pairs(made: Made) -> tuple[Array, float]:
    """DMin's scores, and milliseconds a query of an exact scan that reads and decodes the store."""
    start = time.perf_counter()
    found = made.pairs("cosine", "trained")
    return found, 1000 * (time.perf_counter() - start) / len(found)


def searched(made: Made, truth: Truth) -> Values:
    """HNSW over the rows of K = 2^12 at unit length, against an exact product in memory."""
    codes = open_codes(made.layout, made.plan, "trained", "train")
    queries = unit(open_codes(made.layout, made.plan, "trained", "query").codes())
    rows = unit(np.concatenate([values for _, values in blocks(codes)]))
    index = indexes.build(FACTORY, codes.dimension, [(np.arange(len(rows)), rows)], lambda: rows, 1)
    indexes.tune(index, 1, BREADTH)
    exact, near = (median_ms(work, queries) for work in
                   (lambda q: q @ rows.T, lambda q: indexes.search(index, q, 10)))  # fmt: skip
    scores = queries @ rows.T
    found = indexes.search(index, queries, 10)[0]
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    row: Values = {"index": FACTORY, "rows": len(rows), "numbers": codes.dimension,
                   "recall@10": float(recall_at_k(found, best)), "exact_ms": exact, "index_ms": near}  # fmt: skip
    for kind in GROUPS:
        for name, ids in (("by index", found), ("exact", best)):
            row[f"{kind}@10 {name}"] = float((truth.train[kind][ids] == truth.query[kind][:, None]).mean())
    return row


def unit(rows: Array) -> Array:
    """[n, K] at length one."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def median_ms(work: Callable[[Array], Any], queries: Array) -> float:
    """Of one query at a time."""
    times = []
    for i in range(len(queries)):
        start = time.perf_counter()
        work(queries[i : i + 1])
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def retrained(scratch: Path, setting: Setting, plain: Made, main: Made, model: torch.nn.Module) -> Values:
    """Ten generated samples: does leaving their class out raise their loss, as the class's influence says?"""
    names = plain.task._names
    queries, train = plain.task._splits["query"].labels.numpy(), plain.task._splits["train"].labels.numpy()
    left = [names.index(name) for name in LEFT_OUT]
    asked = np.flatnonzero(np.isin(queries[: 3 * setting.queries], left))[:ASKED]
    batch = row_set(plain.task, "query").batch(asked)
    before = losses(plain.task, model, batch)
    scores = {
        "inner product": plain.pairs("influence", "trained")[asked],
        "DMin": main.pairs("cosine", "trained")[asked],
    }
    rises, sums = [], {name: [] for name in scores}
    for name, number in zip(LEFT_OUT, left, strict=True):
        less = prepared(scratch / f"without-{name}", {"options": setting.options(without=[name])})
        rises.append(losses(less.task, model_at(less.task, less.layout, "trained"), batch) - before)
        for method, values in scores.items():
            sums[method].append(values[:, train == number].sum(1))
        say(f"retrained without {name}")
    own = np.array([left.index(int(queries[i])) for i in asked])
    rise = np.array(rises)[own, np.arange(len(asked))]
    found: Values = {"samples": len(asked), "loss_before": float(before.mean()),
                     "rise_without_own_class": float(rise.mean()), "raised": int((rise > 0).sum())}  # fmt: skip
    for method, values in sums.items():
        total = np.array(values)[own, np.arange(len(asked))]
        found[f"{method}: sign confirmed"] = f"{int((np.sign(total) == np.sign(rise)).sum())} of {len(asked)}"
        found[f"{method}: most of three is the own class"] = int((np.array(values).argmax(0) == own).sum())
    found["retraining: most of three is the own class"] = int((np.array(rises).argmax(0) == own).sum())
    return found


@torch.no_grad()
def losses(task: Task, model: torch.nn.Module, batch: Any) -> Array:
    """[q]."""
    return task.loss(model.eval(), batch).numpy()


def say(what: str) -> None:
    """Progress, with the minutes since the benchmark began."""
    print(f"{(time.monotonic() - STARTED) / 60:.0f} min: {what}", flush=True)


def means(tables: Sequence[list[Values]]) -> list[Values]:
    """Rows of several seeds as one: means, and ranges of the rates where there are several."""
    measures = [f"{kind}@{k}" for kind in GROUPS for k in (5, 10)]
    found = []
    for rows in zip(*tables, strict=True):
        row: Values = {name: rows[0][name] for name in ("queries", "method")}
        for name in measures:
            values = [each[name] for each in rows]
            spread = f" ({min(values):.3f}-{max(values):.3f})" if len(values) > 1 else ""
            row[name] = f"{statistics.mean(values):.3f}{spread}"
        for name, title, unit in (("bytes_a_row", "kB a row", 1000), ("query_ms", "ms a query, from disk", 1)):
            known = [each[name] for each in rows if name in each]
            row[title] = round(statistics.mean(known) / unit, 1) if known else None
        found.append(row)
    return sorted(found, key=lambda row: row["queries"])


def main(arguments: list[str] | None = None) -> None:
    """Run all seeds and keep three tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.diffusion")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train", type=int, default=120, help="images of each set")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--queries", type=int, default=12, help="generated, and held-out, images of each set")
    given = parser.parse_args(arguments or [])
    torch.set_num_threads(1)
    started, results = time.time(), []
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as scratch:
            place = Path(scratch) / "runs"
            place.mkdir()
            results.append(one_seed(place, Setting(given.train, given.epochs, given.width, given.queries, seed)))
    tables, found, checks = zip(*results, strict=True)
    notes = {"seeds": given.seeds, "minutes": round((time.time() - started) / 60, 1), "setting": vars(given)}
    keep("diffusion", "python -m benchmarks diffusion", means(tables), by="queries", **notes)
    keep("diffusion-index", "python -m benchmarks diffusion", [row for rows in found for row in rows], **notes)
    keep("diffusion-retraining", "python -m benchmarks diffusion", list(checks), **notes)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
