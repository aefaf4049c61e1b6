"""All stages up to the scores within this process: many small runs for the price of one, when no workflow is in question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.stages import further, stage
from pipeline import config as settings
from pipeline.config import CHECKPOINTS, CURVATURE_SPLIT, Config
from pipeline.shards import Plan
from pipeline.steps.candidates import only_suspects
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table

DIRECTION = ("tracin", "classical")
"""Signed columns."""


def compute(directory: Path, config: Config) -> dict[str, np.ndarray]:
    """The score table of a run that is made, or brought to its end, in `directory`: column to values [N, ...]."""
    layout = Layout(directory)
    stage(layout, config, "prepare")
    plan = Plan.load(layout.plan)
    if not layout.checkpoint("trained").exists():
        stage(layout, config, "train")
    if not layout.checkpoint("flat").exists():
        stage(layout, config, "flatten")
    for checkpoint in CHECKPOINTS:
        if not layout.projection(checkpoint).exists():
            stage(layout, config, "projection", checkpoint=checkpoint)
        for split, rows in plan.splits.items():
            for shard in rows.shards:
                stage(layout, config, "gradients", checkpoint=checkpoint, split=split, shard=shard.name)
        stage(layout, config, "curvature", checkpoint=checkpoint, split=CURVATURE_SPLIT[checkpoint])
        for split in [name for name in ("validation", "query") if plan.splits[name].rows]:
            stage(layout, config, "vectors", checkpoint=checkpoint, split=split)
    if plan.labelled and only_suspects(config, plan, "flat", "train"):
        stage(layout, config, "suspects")
    for shard in plan.splits["train"].shards if plan.labelled else ():
        stage(layout, config, "candidates", checkpoint="flat", split="train", shard=shard.name)
    if plan.labelled:
        if not layout.checkpoint("folds").exists():
            stage(layout, config, "folds")
        stage(layout, config, "posterior")
    for name, where in further(plan, config, ("train", "validation")):
        stage(layout, config, name, **where)
    stage(layout, config, "scores")
    return scores_of(directory)


def scores_of(directory: Path) -> dict[str, np.ndarray]:
    """The columns of scores.parquet."""
    return {name: np.asarray(values) for name, values in read_table(Layout(directory).scores).items()}


def config_of(file: Path, **sections: dict[str, Any]) -> Config:
    """The configuration of a file, with some values changed."""
    values = settings.load(file).model_dump(by_alias=True)
    return settings.validate(settings.merge(values, sections))
