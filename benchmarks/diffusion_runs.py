"""Runs of the benchmark `diffusion`: their stages in this process, their queries, their scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stages import stage
from pipeline import config as settings
from pipeline.config import Config
from pipeline.core.estimators.base import PairEstimator
from pipeline.methods import CURVATURE_SPLIT
from pipeline.shards import Plan
from pipeline.steps.estimating import RunStores, fitted, row_blocks
from pipeline.steps.job import workers_of
from pipeline.steps.tasks import task_of
from pipeline.storage.layout import Layout
from pipeline.tasks.diffusion import Pictures, generated
from pipeline.tasks.small_diffusion import SmallDiffusion, save_pictures

Array = np.ndarray[Any, Any]
Values = dict[str, Any]

COMMON: Values = {
    "plan": {"shard_rows": 512},
    "sharpness": {"draws": 2, "iterations": 4, "rows": 16},
    "projection": {"sample_rows": 128},
    "compute": {"memory_mb": 4096},
}
SETS = ("digits", "letters", "patterns")
LEFT_OUT = ("digits 3", "letters X", "patterns rings")
"""Classes that are retrained without, one of each set."""


@dataclass(frozen=True)
class Setting:
    """Sizes of a run."""

    train: int
    epochs: int
    width: int
    queries: int
    seed: int

    def options(self, **more: Any) -> Values:
        """Of the task."""
        sizes = {"train_each": self.train, "validation_each": 30, "query_each": self.queries}
        return {**sizes, "epochs": self.epochs, "width": self.width, "seed": self.seed, **more}


@dataclass(frozen=True)
class Made:
    """Stages of a run, in this process: many runs without starting Python for each of their jobs."""

    layout: Layout
    config: Config

    def stage(self, name: str, **where: Any) -> None:
        """One stage, with the sections of the configuration that its rule would pass."""
        stage(self.layout, self.config, name, **where)

    @property
    def plan(self) -> Plan:
        """Of the run."""
        return Plan.load(self.layout.plan)

    @property
    def task(self) -> SmallDiffusion:
        """Of the run."""
        found = task_of(self.config, self.plan)
        assert isinstance(found, SmallDiffusion)
        return found

    def captured(self, checkpoint: str, curvature: bool) -> Made:
        """With all gradients at a checkpoint, and their curvature where it is wanted."""
        self.stage("projection", checkpoint=checkpoint)
        for split, rows in self.plan.splits.items():
            for shard in rows.shards:
                self.stage("gradients", checkpoint=checkpoint, split=split, shard=shard.name)
        if curvature:
            self.stage("curvature", checkpoint=checkpoint, split=CURVATURE_SPLIT[checkpoint])
        return self

    def pairs(self, name: str, checkpoint: str) -> Array:
        """Scores of an estimator of every query and train row, [q, N]."""
        stores = RunStores(self.layout, self.plan, workers_of(self.config))
        estimator = fitted(stores, name, [checkpoint])
        assert isinstance(estimator, PairEstimator)
        (asked,) = (block for block in row_blocks(stores.sets("query", [checkpoint])))
        queries = [piece.of([checkpoint]) for piece in asked.pieces()]
        found = np.full((self.plan.splits["query"].rows, self.plan.splits["train"].rows), -np.inf)
        for block in row_blocks(stores.sets("train", [checkpoint])):
            for piece in block.pieces():
                rows = piece.of([checkpoint])
                for query in queries:
                    found[np.ix_(query.positions, rows.positions)] = estimator.pairs(query, rows)
        return found


def prepared(directory: Path, task: Values, weights: Path | None = None, **sections: Any) -> Made:
    """A run with a plan and the weights `trained`."""
    directory.mkdir(parents=True)
    described = {"task": {"class": "diffusion", **task, "checkpoint": None if weights is None else str(weights)}}
    overlay = settings.merge({**COMMON, **sections}, described)
    made = Made(Layout(directory), settings.validate(settings.merge(settings.defaults(), overlay)))
    made.stage("prepare")
    made.stage("train")
    return made


def queries_of(task: SmallDiffusion, model: torch.nn.Module, setting: Setting, scratch: Path) -> tuple[Path, Path]:
    """Generated samples of each set, then held-out images; the second file has the samples' journeys."""
    names = task._names
    labels = [name for each in SETS for name in
              wanted([name for name in names if name.startswith(each)], setting.queries)]  # fmt: skip
    made = generated(task, model, torch.tensor([names.index(name) for name in labels]), setting.seed)
    held = task._splits["query"]
    images, classes = torch.cat([made.images, held.images]), torch.cat([made.labels, held.labels])
    assert made.journey is not None
    still = held.images[:, None].expand(-1, *made.journey.shape[1:])
    save_pictures(scratch / "queries.npz", Pictures(images, classes))
    save_pictures(scratch / "journeys.npz", Pictures(images, classes, torch.cat([made.journey, still])))
    return scratch / "queries.npz", scratch / "journeys.npz"


def wanted(names: list[str], count: int) -> list[str]:
    """`count` names: four at least of one that is left out later, and the others in turn."""
    (left,) = set(names) & set(LEFT_OUT)
    return ([left] * 4 + [name for _ in range(count) for name in names if name != left])[:count]


def stored(made: Made) -> float:
    """Bytes of a stored train row, all of its columns."""
    place = made.layout.gradients("trained", "train", made.plan.splits["train"].shards[0].name)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return size / made.plan.splits["train"].shards[0].rows


def parameters(made: Made) -> int:
    """P, of those that are captured."""
    model = made.task.model()
    return sum(value.numel() for name, value in model.named_parameters() if not name.startswith("label"))
