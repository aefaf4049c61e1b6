"""How well each score finds wrong labels, and what relabelling gets right, by the workflow on many data sets.

A cell is a data set with a kind of noise and a regime (a model that learnt its noise by heart, or one that did not),
run with the defaults of `lowland run` for each seed. `--small` is meant to take under half an hour, `--full` takes a
night. Files that are not there (see docs/tasks.md) leave their cells out, which is said; a cell that failed stops all.
Noise is human or planted, and is called so. Paths: LOWLAND_VADER, LOWLAND_FASHION, LOWLAND_LETTERS, LOWLAND_CIFAR.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import keep
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout

Figures = dict[tuple[str, str, str], float]

MEASURES = (("mislabel", "auc", "AUC"), ("relabel", "accuracy", "relabel accuracy"))


@dataclass(frozen=True)
class Cell:
    """A column of the tables.

    Attributes:
        name: what people call it.
        task: built-in task.
        options: of the task.
        source: environment variable that names its file or directory, or "" for none.
        small: whether it is part of `--small`.
    """

    name: str
    task: str
    options: dict[str, Any]
    source: str = ""
    small: bool = False


def _cells() -> list[Cell]:
    found = [
        Cell(f"digits, planted {kind} 40 %, learnt by heart", "digits", {"noise": kind, "noise_rate": 0.4}, small=True)
        for kind in ("uniform", "confusable", "instance")
    ]
    for kind in ("uniform", "confusable", "instance"):
        for regime, letters, fashion in (("learnt by heart", 80, 60), ("not learnt by heart", 6, 4)):
            planted = {"noise": kind, "noise_rate": 0.4}
            name = f"planted {kind} 40 %, {regime}"
            small = kind != "confusable"
            found.append(Cell(f"letters, {name}", "letters", {**planted, "epochs": letters}, "LOWLAND_LETTERS", small))
            found.append(
                Cell(f"Fashion-MNIST, {name}", "fashion_mnist", {**planted, "epochs": fashion}, "LOWLAND_FASHION")
            )
    for labels in ("one rater", "worst of three"):
        for agreement in (0.0, 0.6):
            for encoder, epochs in (("scratch", 15), ("scratch", 3), ("minilm", 100), ("minilm", 6)):
                options = {"labels": labels, "agreement": agreement, "encoder": encoder, "epochs": epochs}
                name = f"sentences, human ({labels}, agreement {agreement:.0%}), {encoder}, {epochs} epochs"
                small = encoder == "scratch" and agreement > 0 and epochs == 3
                found.append(Cell(name, "vader", options, "LOWLAND_VADER", small))
    for noise in ("aggregate", "random1", "worst"):
        for epochs, augment in ((60, False), (10, True)):
            options = {"noise": noise, "epochs": epochs, "augment": augment, "train_size": 10000}
            name = f"CIFAR-10N, human ({noise}), {epochs} epochs{', augmented' if augment else ''}"
            found.append(Cell(name, "cifar10n", options, "LOWLAND_CIFAR"))
    return found


CELLS = _cells()
SMALL = {"train_size": 1000, "validation_size": 300, "query_size": 50}


def options_of(cell: Cell, small: bool, seed: int) -> dict[str, Any]:
    """The options of the cell's task."""
    path = {"path": os.environ[cell.source]} if cell.source else {}
    return {**cell.options, **(SMALL if small else {}), **path, "seed": seed}


def run(directory: Path, task: str, options: dict[str, Any], seed: int) -> Figures:
    """One run of the workflow with its defaults; (measure, method, checkpoint) to its figure."""
    directory.mkdir(parents=True)
    config = directory.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({"seed": seed, "task": {"class": task, "options": options}}), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "run", "-c", str(config), "--workdir", str(directory)]
    done = subprocess.run([*command, "--until", "evaluate"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{task} {options} failed, so that there is no table:\n{done.stderr[-2000:]}")
    return figures(Layout(directory))


def figures(layout: Layout) -> Figures:
    """What a run's evaluation says."""
    found = {}
    for table, column, measure in MEASURES:
        for row in open_artefact(layout.evaluation(table), "evaluation").record["rows"]:
            found[measure, row["method"], row["checkpoint"]] = float(row[column])
    return found


def rows_of(cells: dict[str, list[Figures]]) -> list[dict[str, Any]]:
    """A row a cell, measure and method: mean and standard deviation over the seeds.

    Raises:
        ValueError: a cell has no run, or its runs know different methods: nothing is printed that was not measured.
    """
    rows = []
    for cell, runs in cells.items():
        if not runs or any(set(found) != set(runs[0]) for found in runs):
            raise ValueError(f"expected runs of the same methods in the cell {cell}, got {len(runs)} runs")
        for name in runs[0]:
            values = [found[name] for found in runs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            measure, method, checkpoint = name
            rows.append(
                {
                    "cell": cell,
                    "measure": measure,
                    "method": method,
                    "at": checkpoint,
                    "mean": statistics.mean(values),
                    "deviation": spread,
                    "seeds": len(values),
                }
            )
    return rows


def main(full: bool = False) -> None:
    """Run the cells that there are data for, 1,000 train rows and one seed, or whole sizes and five seeds."""
    seeds = range(5) if full else range(1)
    measured: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for number, cell in enumerate(cell for cell in CELLS if full or cell.small):
            if cell.source and cell.source not in os.environ:
                print(f"left out, as {cell.source} names no data: {cell.name}", flush=True)
                continue
            measured[cell.name] = [
                run(Path(scratch) / f"{number}-{seed}", cell.task, options_of(cell, not full, seed), seed)
                for seed in seeds
            ]
            print(f"done: {cell.name}", flush=True)
    setting = "full" if full else "small"
    keep(
        "evidence",
        f"python -m benchmarks evidence --{setting}",
        rows_of(measured),
        by="cell",
        timed=False,
        setting=setting,
        seeds=list(seeds),
    )
