"""Runs of the benchmark `diffusion`: what they are asked with, their stages, their scores.

A seed has a run that trains and many that take its weights and capture gradients in one way each, under
`runs/diffusion/`. None trains again, but for those without a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.stages import RUNS, Run, Stage
from pipeline import config as settings
from pipeline.core.estimators.base import PairEstimator
from pipeline.methods import CURVATURE_SPLIT
from pipeline.steps.estimating import RunStores, fitted
from pipeline.steps.job import Job
from pipeline.steps.retrieval import Asked, score_pairs
from pipeline.steps.tasks import model_at
from pipeline.tasks.diffusion import Pictures, generated
from pipeline.tasks.small_diffusion import SmallDiffusion, save_pictures

Array = np.ndarray[Any, Any]
Values = dict[str, Any]

COMMON: Values = {
    "plan": {"shard_rows": 512},
    "sharpness": {"draws": 2, "iterations": 4, "rows": 16},
    "projection": {"sample_rows": 128},
    "gradients": {"batch_rows": 32},
    "compute": {"memory_mb": 4096},
}
SETS = ("digits", "letters", "patterns")
TRAIN: Stage = ("train", {})
LEFT_OUT = ("digits 3", "letters X", "patterns rings")
"""Classes that are retrained without, one of each set."""


@dataclass(frozen=True)
class Setting:
    """Of a seed's runs: images of each set to train on, epochs, width, queries of each set and kind, seed, and whether
    the model is told the class.
    """

    train: int = 120
    epochs: int = 200
    width: int = 16
    queries: int = 12
    seed: int = 0
    told: bool = True

    def options(self, **more: Any) -> Values:
        """Of the task."""
        sizes = {"train_each": self.train, "validation_each": 30, "query_each": self.queries}
        return {**sizes, "epochs": self.epochs, "width": self.width, "seed": self.seed,
                "conditional": self.told, **more}  # fmt: skip

    @property
    def place(self) -> str:
        """Of its runs, below those of the benchmark."""
        return "-".join(str(value) for value in asdict(self).values())


@dataclass(frozen=True)
class Seed:
    """A trained model, its task, and its queries: generated samples of each set, then as many held-out images.

    A model that is not told the class generates what it likes, of which nobody knows the class: held-out images alone.
    """

    setting: Setting
    task: SmallDiffusion
    model: torch.nn.Module
    weights: Path

    @classmethod
    def trained(cls, setting: Setting) -> Seed:
        """Train the model, and write what it is asked about."""
        first = run_of(setting, "first")
        first.make([TRAIN])
        model = model_at(SmallDiffusion(**setting.options()), first.layout, "trained")
        files = write_queries(SmallDiffusion(**setting.options()), model, setting)
        task = SmallDiffusion(**setting.options(groups="class", queries=files))
        return cls(setting, task, model, first.layout.checkpoint("trained").resolve())

    def run(self, name: str, options: Values | None = None, journeys: bool = False, **sections: Any) -> Run:
        """A run that takes the weights; with `journeys`, queries are what was foreseen on the way to a sample."""
        queries = self._queries.with_name("journeys.npz") if journeys else self._queries
        return run_of(self.setting, name, options, self.weights, queries, **sections)

    def trained_again(self, name: str, **sections: Any) -> Run:
        """A run that trains the same model once more: its epochs can be asked for."""
        return run_of(self.setting, name, None, None, self._queries, **sections)

    @property
    def _queries(self) -> Path:
        return RUNS / "diffusion" / self.setting.place / "queries.npz"


def run_of(
    setting: Setting,
    name: str,
    options: Values | None = None,
    weights: Path | None = None,
    queries: Path | None = None,
    **sections: Any,
) -> Run:
    """A run of a seed; gradients are without those of the label's embedding, where there is one."""
    task: Values = {"class": "diffusion", "options": setting.options(**(options or {}))}
    task |= {} if weights is None else {"checkpoint": str(weights)}
    task |= {} if queries is None else {"data": {"queries": str(queries)}}
    own = {"task": task, "seed": setting.seed, "gradients": {"exclude": ["label*"] if setting.told else []}}
    overlay = settings.merge(settings.merge(COMMON, sections), own)
    return Run("diffusion", f"{setting.place}/{name}", overlay)


def captured(run: Run, checkpoint: str, curvature: bool) -> Iterator[Stage]:
    """All gradients at a checkpoint, and their curvature where it is wanted."""
    yield "projection", {"checkpoint": checkpoint}
    for split, rows in run.plan.splits.items():
        for shard in rows.shards:
            yield "gradients", {"checkpoint": checkpoint, "split": split, "shard": shard.name}
    if curvature:
        yield "curvature", {"checkpoint": checkpoint, "split": CURVATURE_SPLIT[checkpoint]}


def pairs(run: Run, name: str, *checkpoints: str) -> Array:
    """Scores of an estimator of every query and train row, [q, N]."""
    job = Job("retrieval", run.layout, run.config, lambda _: None)
    stores = RunStores(run.layout, run.plan, job.workers())
    estimator, count = fitted(stores, name, checkpoints), run.plan.splits["query"].rows
    assert isinstance(estimator, PairEstimator)
    vectors = estimator.ask(stores.picked("query", checkpoints, np.arange(count)))
    (found,) = score_pairs(job, stores, [Asked(name, checkpoints, estimator, vectors)], count)
    return found


def write_queries(task: SmallDiffusion, model: torch.nn.Module, setting: Setting) -> Path:
    """Generated samples of each set, then held-out images; beside them a file with the samples' journeys."""
    place = RUNS / "diffusion" / setting.place
    held = task._splits["query"]
    if not setting.told:
        save_pictures(place / "queries.npz", held)
        return place / "queries.npz"
    names = task._names
    labels = [name for each in SETS for name in
              wanted([name for name in names if name.startswith(each)], setting.queries)]  # fmt: skip
    made = generated(task, model, torch.tensor([names.index(name) for name in labels]), setting.seed)
    images, classes = torch.cat([made.images, held.images]), torch.cat([made.labels, held.labels])
    assert made.journey is not None
    still = held.images[:, None].expand(-1, *made.journey.shape[1:])
    save_pictures(place / "journeys.npz", Pictures(images, classes, torch.cat([made.journey, still])))
    save_pictures(place / "queries.npz", Pictures(images, classes))
    return place / "queries.npz"


def wanted(names: list[str], count: int) -> list[str]:
    """`count` names: four at least of one that is left out later, and the others in turn."""
    (left,) = set(names) & set(LEFT_OUT)
    return ([left] * 4 + [name for _ in range(count) for name in names if name != left])[:count]


def stored(run: Run) -> float:
    """Bytes of a stored train row, all of its columns."""
    place = run.layout.gradients("trained", "train", run.plan.splits["train"].shards[0].name)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return size / run.plan.splits["train"].shards[0].rows
