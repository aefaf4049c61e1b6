"""What taught a diffusion model its samples: detection rates of DMin, flat-minimum and other estimators, and controls.

A small class-conditional U-Net learns three sets of images (digits, letters, patterns). Queries are samples that it
generates (DDIM, seeded) and held-out images. *Detection rate@k*: the share of a query's top k train images that are of
its own set, or, which is harder, of its own class; what chance gives stands in the table. The label embedding, which
alone would tell the class, is left out of all gradients; what it feeds still knows the class, as the controls do not.
So a second model, which is not told the class, is asked about the held-out images as well.

Three tables: the rates; indexes against an exact scan of DMin's codes; and retraining without a class, which shows
whether influence had the right sign on ten generated samples.

`--small`, the default: one seed. `--full`: five, of which only the first tries K other than 2^12 and TracIn at several
checkpoints. Runs are kept in `runs/diffusion/`: what was broken off goes on.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from benchmarks.diffusion_checks import retrained, searched
from benchmarks.diffusion_controls import spaces
from benchmarks.diffusion_runs import TRAIN, Array, Seed, Setting, Values, captured, pairs, stored
from benchmarks.stages import Run
from benchmarks.tables import keep

SEEDS = {"small": (0,), "full": (0, 1, 2, 3, 4)}
SIZES = (2**8, 2**10, 2**12, 2**14, 2**16)
MAIN = 2**12
SEPARATE = {"parts": "separate", "normalise": "part", "codec": "int8"}
SUMMED: Values = {"projection": {"method": "sjlt"}}
"""TRAK's projection, a random one, for all: fitting the default one takes longer here than all else."""
FLAT = {"strength": 0.2, "watch": False, "steps": 60, "batch_rows": 16}
UNTOLD = "held out, the model is not told the class"
THIRDS = (1 / 3, 2 / 3, 1.0)
"""Of the training: where TracIn's checkpoints are."""
GROUPS = ("set", "class")
MEASURES = tuple(f"{kind}@{k}" for kind in GROUPS for k in (5, 10))


@dataclass(frozen=True)
class Truth:
    """Groups of queries and train rows, by set and by class; which queries are generated, or held out."""

    query: dict[str, Array]
    train: dict[str, Array]
    kinds: dict[str, slice]

    @classmethod
    def of(cls, seed: Seed) -> Truth:
        """Of a seed: a class is a set and a name."""
        classes = {split: seed.task.groups(split) for split in ("query", "train")}
        query, train = ({"class": np.array(names), "set": np.array([name.partition(" ")[0] for name in names])}
                        for names in classes.values())  # fmt: skip
        made = 3 * seed.setting.queries
        told = {"generated": slice(0, made), "held out": slice(made, None)}
        return cls(query, train, told if seed.setting.told else {UNTOLD: slice(None)})

    def own(self, kind: str) -> Array:
        """Whether a query and a train row are of one group, [Q, N]."""
        same: Array = self.query[kind][:, None] == self.train[kind]
        return same

    def chance(self) -> Array:
        """Scores that know nothing."""
        shape = len(self.query["set"]), len(self.train["set"])
        return np.random.default_rng(0).random(shape)


def rates(scores: Array, own: dict[str, Array]) -> Values:
    """Detection rates@5 and @10 by set and class, and their standard errors over the queries.

    Args:
        scores: [q, N].
        own: whether rows are of the query's own group, [q, N] by the kind of group.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    found: Values = {}
    for kind in GROUPS:
        for k in (5, 10):
            shares = np.take_along_axis(own[kind], order[:, :k], 1).mean(1)
            error = shares.std(ddof=1) / math.sqrt(len(shares)) if len(shares) > 1 else 0.0
            found |= {f"{kind}@{k}": float(shares.mean()), f"{kind}@{k} error": float(error)}
    return found


def by_kind(name: str, scores: Array, truth: Truth, **more: Any) -> list[Values]:
    """Rows of the table, one of each kind of queries."""
    own = {kind: truth.own(kind) for kind in GROUPS}
    return [{"queries": kind, "method": name, **rates(scores[part], {each: same[part] for each, same in own.items()}),
             **more} for kind, part in truth.kinds.items()]  # fmt: skip


def separate(seed: Seed, sizes: tuple[int, ...], truth: Truth) -> Iterator[Values]:
    """DMin with several K, without normalisation, and at the paper's times."""
    for size in sizes:
        yield from dmin(seed, size, truth)
        say(f"DMin, K = {size}")
    yield from by_kind("DMin, K = 2^12, no normalisation", pairs(unchanged(seed), "influence", "trained"), truth)
    dense = seed.run("dense", {"grid": "dmin"}, **dmin_sections(MAIN, "part"))
    dense.make([TRAIN, *captured(dense, "trained", False)])
    yield from by_kind("DMin, K = 2^12, dense where noise is high", pairs(dense, "cosine", "trained"), truth)
    say("DMin otherwise")


def dmin_sections(size: int, normalise: str) -> Values:
    """Of the configuration."""
    return {"projection": {"method": "dmin", "dimension": size, "sample_rows": 64}, "curvature": {"kind": "identity"},
            "gradients": {**SEPARATE, "normalise": normalise}}  # fmt: skip


def normalised(seed: Seed, size: int) -> Run:
    """The run of DMin with K numbers a time."""
    run = seed.run(f"dmin-{size}", **dmin_sections(size, "part"))
    run.make([TRAIN, *captured(run, "trained", False)])
    return run


def unchanged(seed: Seed) -> Run:
    """The same of gradients of any length, for inner products."""
    run = seed.run("plain", **dmin_sections(MAIN, "none"))
    run.make([TRAIN, *captured(run, "trained", True)])
    return run


def dmin(seed: Seed, size: int, truth: Truth) -> list[Values]:
    """DMin with K numbers a time, the bytes of a row, and what a query takes that reads and decodes the store."""
    run, whole = normalised(seed, size), parameters(seed)
    note = f", all {whole:,} coordinates" if size >= whole else ""
    start = time.process_time()
    found = pairs(run, "cosine", "trained")
    took = 1000 * (time.process_time() - start) / len(found)
    return by_kind(f"DMin, K = 2^{size.bit_length() - 1}{note}", found, truth, bytes=stored(run), ms=took)


def parameters(seed: Seed) -> int:
    """P, of those that are captured."""
    return sum(value.numel() for name, value in seed.model.named_parameters() if not name.startswith("label"))


def summed(seed: Seed, truth: Truth) -> Iterator[Values]:
    """Estimators on the gradient of the whole loss, K = 2048."""
    whole = seed.run("sum", **SUMMED, flatten=FLAT)
    whole.make([TRAIN, *captured(whole, "trained", True), ("flatten", {}), *captured(whole, "flat", True)])
    for name, title in (("cosine", "cosine of the whole loss"), ("tracin", "TracIn, last checkpoint"),
                        ("datainf", "DataInf"), ("influence", "classical influence")):  # fmt: skip
        yield from by_kind(title, pairs(whole, name, "trained"), truth)
    plain = seed.run("vm", **SUMMED, flatten={**FLAT, "method": "plain"})
    plain.make([TRAIN, ("flatten", {}), *captured(plain, "flat", True)])
    for run, title, minimum in ((whole, "FVM", "SAM"), (plain, "VM", "plain")):
        yield from by_kind(f"{title}, single point ({minimum})", pairs(run, "fvm", "flat"), truth)
        for name, what in (("influence", "influence"), ("cosine", "cosine")):
            yield from by_kind(f"{what} at the flat minimum ({minimum})", pairs(run, name, "flat"), truth)
    say("flat minima")
    if seed.setting.seed == 0:  # it is trained twice more for that
        yield from by_kind("TracIn, three checkpoints", over_epochs(seed), truth)
        say("TracIn")
    ways = [("D-TRAK", {"measure": "square"}, False), *([("Journey-TRAK", {}, True)] * seed.setting.told)]
    for title, options, journeys in ways:
        run = seed.run(title, options, journeys, **SUMMED)
        run.make([TRAIN, *captured(run, "trained", True)])
        yield from by_kind(title, pairs(run, "trak", "trained"), truth)
        say(title)


def over_epochs(seed: Seed) -> Array:
    """TracIn at three checkpoints of the training, which is run again for them."""
    epochs = [round(share * seed.setting.epochs) for share in THIRDS]
    run = seed.trained_again("epochs", **SUMMED, checkpoints={"epochs": epochs})
    names = [f"epoch-{epoch}" for epoch in epochs]
    run.make([TRAIN, ("trajectory", {}), *(stage for name in names for stage in captured(run, name, False))])
    return pairs(run, "tracin", *names)


def controls(seed: Seed, truth: Truth) -> list[Values]:
    """Chance, and nearest neighbours in some spaces."""
    found = by_kind("chance", truth.chance(), truth)
    for name, space in spaces(seed, truth.train["class"]).items():
        distances = ((space["query"][:, None] - space["train"][None]) ** 2).sum(2)
        found += by_kind(f"nearest in {name}", -distances, truth)
    return found


def say(what: str) -> None:
    """Progress, with the minutes of CPU time so far."""
    print(f"{time.process_time() / 60:.1f} min: {what}", file=sys.stderr, flush=True)


def means(tables: list[list[Values]]) -> list[Values]:
    """Rows of several seeds as one: means, with their range; of one seed, with the standard error over the queries."""
    alike: dict[tuple[str, str], list[Values]] = {}
    for row in (row for table in tables for row in table):
        alike.setdefault((row["queries"], row["method"]), []).append(row)
    found = []
    for (queries, method), rows in alike.items():
        merged: Values = {"queries": queries, "method": method}
        for name in MEASURES:
            values = [row[name] for row in rows]
            spread = f"({min(values):.3f}-{max(values):.3f})" if len(rows) > 1 else f"± {rows[0][f'{name} error']:.3f}"
            merged[name] = f"{statistics.mean(values):.3f} {spread}"
        for name, title, unit in (("bytes", "kB a row", 1000), ("ms", "CPU ms a query, from disk", 1)):
            known = [row[name] for row in rows if name in row]
            merged[title] = round(statistics.mean(known) / unit, 1) if known else None
        found.append({**merged, "seeds": len(rows)})
    return sorted(found, key=lambda row: row["queries"])


def main(full: bool = False) -> None:
    """Run all seeds and keep three tables."""
    setting = "full" if full else "small"
    torch.set_num_threads(1)
    command = f"python -m benchmarks diffusion --{setting}"
    seeds, tables, indexes = [], [], []
    for number, told in product(SEEDS[setting], (True, False)):
        seed = Seed.trained(Setting(seed=number, told=told))
        say(f"seed {number}{'' if told else ', not told the class'}: trained")
        truth, sizes = Truth.of(seed), SIZES if (number, told) == (0, True) else (MAIN,)
        tables.append([*controls(seed, truth), *separate(seed, sizes, truth), *summed(seed, truth)])
        keep("diffusion", command, means(tables), by="queries", setting=setting)  # a run may be broken off later
        if told:
            seeds.append(seed)
            own = {kind: truth.own(kind) for kind in GROUPS}
            indexes += [{"seed": number, **row} for row in searched(normalised(seed, MAIN), own)]
            keep("diffusion-index", command, indexes, setting=setting)
    checks = []
    for seed in seeds:
        checks.append(retrained(seed, unchanged(seed), normalised(seed, MAIN)))
        say(f"seed {seed.setting.seed}: retrained")
        keep("diffusion-retraining", command, checks, setting=setting)
    say("done")


if __name__ == "__main__":
    main()
