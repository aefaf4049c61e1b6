"""Runs of the benchmark `fine`: one task, trained from many seeds, with everything that its methods read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fine_task import COPIED, Planted
from benchmarks.stages import Run, captured, further, scored
from pipeline.config import SPLITS
from pipeline.core.estimators.base import PairEstimator
from pipeline.core.estimators.fine import FINE, Seen, dealt
from pipeline.methods import METHODS
from pipeline.shards import Plan
from pipeline.steps.estimating import RunStores, fitted
from pipeline.steps.job import workers_of
from pipeline.storage.tables import read_table
from pipeline.tasks.load import load

Array = np.ndarray[Any, Any]

HERE = Path(__file__).parent
TASK = f"{HERE / 'fine_task.py'}:Planted"
ESTIMATORS = ("w", "self_influence", "tracin", "classical", "trak", "cosine", "fine", "fine_max", "fine_self",
              "lasting")  # fmt: skip
PAIRS = (
    ("fine", None),
    ("tracin", None),
    ("trak", None),
    ("influence", "trained"),
    ("fvm", "flat"),
    ("cosine", "trained"),
)
"""Scores of pairs; None: at all checkpoints of the kind."""
POINTS = (0.03, 0.08, 0.2, 0.45, 0.7, 1.0)
"""Where weights are kept, as shares of the epochs."""
NULL_ROWS, NULL_DRAWS = 200, 400


@dataclass(frozen=True)
class Setting:
    """Sizes: of the task, how many seeds, and how many further models TRAK has; how the flat minimum is sought."""

    seeds: int
    train: int
    hidden: int
    epochs: int
    further: int
    flatten: dict[str, Any]

    def options(self) -> dict[str, Any]:
        """Of the task: the same rows for all seeds."""
        sizes = {"train_size": self.train, "validation_size": 200, "query_size": 25}
        return {**sizes, "hidden": self.hidden, "epochs": self.epochs}

    def task(self) -> Planted:
        """What is planted where."""
        found = load(TASK, self.options(), HERE)
        assert found.poison()[-1] == len(found.train_rows()) - 1
        return found

    def values(self, seed: int) -> dict[str, Any]:
        """The configuration of the run that is trained from a seed, over the defaults."""
        return {
            "seed": seed,
            "task": {"class": TASK, "options": self.options()},
            "compute": {"memory_mb": 4096},
            "flatten": self.flatten,
            "sharpness": {"draws": 2, "iterations": 4, "rows": 64},
            "projection": {"dimension": 512},
            "checkpoints": {
                "epochs": sorted({max(1, round(share * self.epochs)) for share in POINTS}),
                "twin": True,
                "seeds": self.further,
            },
            "scores": {"estimators": list(ESTIMATORS)},
        }


def made(name: str, setting: Setting, seed: int) -> Trained:
    """The run of a seed, all stages up to the scores."""
    run = Run("fine", f"{name}-{seed}", setting.values(seed))
    run.make([*captured(run.plan, SPLITS), *further(run.plan, run.config, SPLITS), *scored(run.plan)])
    return Trained(run)


@dataclass(frozen=True)
class Trained:
    """A run that is made, and what the tables ask of it."""

    run: Run

    def stores(self) -> RunStores:
        """Its gradients."""
        return RunStores(self.run.layout, self.run.plan, workers_of(self.run.config))

    def columns(self) -> dict[str, Array]:
        """The score table, [N] each."""
        table = read_table(self.run.layout.scores)
        return {name: np.asarray(values) for name, values in table.items() if name != "s_by_label"}

    def pairs(self) -> dict[str, Array]:
        """Scores of every query and train row, [q, N]; unsigned ones as they are."""
        return {name: self._pair(name, checkpoint) for name, checkpoint in PAIRS} | {"fine, no auxiliary": self.alone()}

    def _pair(self, name: str, checkpoint: str | None) -> Array:
        at = [checkpoint] if checkpoint else self.run.config.checkpoints.expanded(METHODS[name].at[:1])
        estimator = fitted(self.stores(), name, at)
        assert isinstance(estimator, PairEstimator)
        return estimator.pairs(*self.rows(at))

    def rows(self, at: list[str]) -> tuple[Any, Any]:
        """All query and all train rows."""
        sizes = {split: np.arange(self.plan.splits[split].rows) for split in ("query", "train")}
        return tuple(self.stores().picked(split, at, rows) for split, rows in sizes.items())

    @property
    def plan(self) -> Plan:
        """Of the run."""
        return self.run.plan

    def fine(self) -> tuple[FINE, Any, Any]:
        """f-INE, and the rows that it reads."""
        at = self.run.config.checkpoints.expanded(("twins",))
        estimator = fitted(self.stores(), "fine", at)
        assert isinstance(estimator, FINE)
        return estimator, *self.rows(at)

    def alone(self) -> Array:
        """f-INE without an auxiliary model: D is A, and the twin is not looked at, [q, N]."""
        estimator, queries, rows = self.fine()
        found = []
        for number, point in enumerate(estimator.points):
            asked, codes = queries.codes(point), rows.codes(point)
            own, steps = asked @ codes.T, asked @ estimator.sums[number].T
            held = steps[:, dealt(rows.positions, number)]
            found.append(Seen(own, own, held, steps.mean(1, keepdims=True), steps.var(1, keepdims=True)).influence)
        of = np.stack(found)
        mu: Array = of.mean(0) / np.sqrt(1 + of.var(0) / 2)
        return mu

    def null(self) -> dict[str, float]:
        """Of rows that were never trained on: mu against the band of permutations, and mu over thresholds, by query."""
        estimator, queries, _ = self.fine()
        rng, asked = np.random.default_rng(0), estimator.ask(queries)
        positions = self.plan.splits["train"].rows + np.arange(NULL_ROWS)
        inside, plugged, largest = [], [], []
        for query in range(COPIED):
            for test in estimator.unseen(asked[query : query + 1], positions):
                low, high = test.band(NULL_DRAWS, rng)
                plugged.append(test.mu())
                inside.append(low <= plugged[-1] <= high)
                largest.append(test.largest())
        return {
            "inside": float(np.mean(inside)),
            "mean mu": float(np.mean(plugged)),
            "mean |mu|": float(np.mean(np.abs(plugged))),
            "mean |max mu|": float(np.mean(np.abs(largest))),
        }
