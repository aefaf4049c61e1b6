"""The workflow's stages within this process, one after the other: an interpreter for each takes most of a small run.

Runs are kept under `runs/NAME/`. What a benchmark did before under the same settings, code and stages before it is not
done again, so that one that was broken off goes on where it stopped.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import config as settings
from pipeline.config import CURVATURE_SPLIT, Config
from pipeline.methods import SOLVED
from pipeline.provenance import digest_value
from pipeline.retrainings import blocks
from pipeline.shards import Plan
from pipeline.steps.code import digest_of
from pipeline.steps.job import Job
from pipeline.storage.artefact import open_artefact, write_whole
from pipeline.storage.layout import Layout

RUNS = Path(__file__).parent.parent / "runs"
FINISHED = "finished.yaml"
"""In the directory of a run: the configuration by which all of it was done."""

Stage = tuple[str, dict[str, str]]
"""Its name, and which artefact."""


def stage(layout: Layout, config: Config, name: str, **where: Any) -> None:
    """One stage, with the sections of the configuration that its rule would pass."""
    passed = json.loads(json.dumps(settings.sections(config, name)))
    importlib.import_module(f"pipeline.steps.{name}").run(
        Job(name, layout, settings.partial(passed, config.compute.memory_mb), lambda _: None), **where
    )


def captured(plan: Plan, splits: tuple[str, ...]) -> Iterator[Stage]:
    """From training to the gradients of some splits and the curvature at both checkpoints."""
    yield from (("train", {}), ("flatten", {}))
    for checkpoint, behind in CURVATURE_SPLIT.items():
        yield "projection", {"checkpoint": checkpoint}
        for split in splits:
            for shard in plan.splits[split].shards:
                yield "gradients", {"checkpoint": checkpoint, "split": split, "shard": shard.name}
        yield "curvature", {"checkpoint": checkpoint, "split": behind}


def further(plan: Plan, config: Config, splits: tuple[str, ...]) -> Iterator[Stage]:
    """What estimators of several checkpoints, of an ensemble, and of solvers on whole gradients read."""
    if config.checkpoints.epochs:
        yield "trajectory", {}
        yield from (("twin", {}), ("twin_flat", {})) if config.checkpoints.twin else ()
    yield from (("member", {"checkpoint": f"seed-{n}"}) for n in range(1, config.checkpoints.seeds + 1))
    for checkpoint in config.checkpoints.further:
        yield "projection", {"checkpoint": checkpoint}
        for split in splits:
            for shard in plan.splits[split].shards:
                yield "gradients", {"checkpoint": checkpoint, "split": split, "shard": shard.name}
    yield from (("solve", {"method": name}) for name in config.scores.estimators if name in SOLVED)
    if config.ensemble.members:
        yield from (("ensemble", {}), ("losses", {}))


def scored(plan: Plan) -> Iterator[Stage]:
    """From the gradients of the train rows to the table of scores, of a classification."""
    for shard in plan.splits["train"].shards:
        yield "candidates", {"checkpoint": "flat", "split": "train", "shard": shard.name}
    yield from (("folds", {}), ("posterior", {}), ("scores", {}))


def retrained(config: Config, set_name: str) -> Iterator[Stage]:
    """All models of a set."""
    yield from (("retrain", {"set_name": set_name, "block": block}) for block in blocks(config.retrain, set_name))


class Run:
    """A run of a benchmark, in a directory of its own."""

    def __init__(self, name: str, slug: str, values: dict[str, Any]) -> None:
        """Plan it.

        Args:
            name: of the benchmark.
            slug: of the run.
            values: of its configuration, over the defaults.
        """
        self.layout = Layout(RUNS / name / slug)
        self.config = settings.validate(settings.merge(settings.defaults(), values))
        stage(self.layout, self.config, "prepare")
        self.plan = Plan.load(self.layout.plan)

    def make(self, stages: Iterable[Stage]) -> None:
        """Do what was not done."""
        place, before = self.layout.run / "done.json", self.plan.save()
        done: list[str] = json.loads(place.read_text(encoding="utf-8")) if place.is_file() else []
        for i, (name, where) in enumerate(stages):
            before = digest_value(
                [before, name, where, settings.sections(self.config, name), digest_of(name, self.config)]
            )
            if done[i : i + 1] != [before]:
                stage(self.layout, self.config, name, **where)
                done = [*done[:i], before]
                write_whole(place, json.dumps(done))

    def beside(self, slug: str, values: dict[str, Any]) -> Run:
        """A run of another configuration that takes over what this one has done and both would do alike.

        Args:
            slug: of the other.
            values: of its configuration, over the defaults.
        """
        place = self.layout.run.with_name(slug)
        if not place.exists():
            unfinished = place.with_name(f"{place.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            shutil.copytree(self.layout.run, unfinished)
            unfinished.rename(place)
        return Run(place.parent.relative_to(RUNS).as_posix(), slug, values)

    def table(self, name: str) -> list[dict[str, Any]]:
        """The rows of a table of its evaluation."""
        rows: list[dict[str, Any]] = open_artefact(self.layout.evaluation(name), "evaluation").record["rows"]
        return rows


def remembered(name: str, slug: str, config: Any, make: Callable[[], Any], only_kept: bool) -> Any:
    """What `make` gave under the same configuration before; else makes it and keeps it, as JSON.

    Args:
        name: of the benchmark.
        slug: of what is made.
        config: all that it follows from.
        make: gives tables, or whatever JSON can hold.
        only_kept: make nothing: None where it was not made before.
    """
    place = RUNS / name / f"{slug}.json"
    if place.is_file():
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["config"] == json.loads(json.dumps(config)):
            return kept["tables"]
    if only_kept:
        return None
    made = make()
    write_whole(place, json.dumps({"config": config, "tables": made}))
    print(f"done: {name}, {slug}", file=sys.stderr, flush=True)
    return made
