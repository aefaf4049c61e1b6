"""Mislabel detection and relabelling on digits: the whole workflow with its defaults, four kinds of noise, three seeds.

1,000 train rows with planted noise that the model has learnt by heart, 300 clean validation rows. AUC of finding the
flipped labels, and how often the suggested label is the true one on them; mean and range over the seeds. Every score
stands beside the simple controls.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import keep
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout

NOISES = (("uniform", 0.2), ("uniform", 0.4), ("confusable", 0.2), ("confusable", 0.4))
SEEDS = (0, 1, 2)


def run(directory: Path, noise: str, rate: float, seed: int) -> dict[tuple[str, str, str], float]:
    """One run of the workflow; (table, method, checkpoint) to its figure."""
    directory.mkdir(parents=True)
    overlay = {
        "seed": seed,
        "task": {"class": "digits", "options": {"noise": noise, "noise_rate": rate, "seed": seed}},
        "query": {"k": 1},
    }
    config = directory.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "-c",
        str(config),
        "--workdir",
        str(directory),
        "--until",
        "evaluate",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return figures(Layout(directory))


def figures(layout: Layout) -> dict[tuple[str, str, str], float]:
    """AUCs and relabel accuracies of a run's evaluation."""
    found = {}
    for table, column in (("mislabel", "auc"), ("relabel", "accuracy")):
        for row in open_artefact(layout.evaluation(table), "evaluation").record["rows"]:
            found[table, row["method"], row["checkpoint"]] = row[column]
    return found


def main() -> None:
    """Run all cells; a cell that failed stops the benchmark."""
    cells: dict[tuple[str, float], list[dict[tuple[str, str, str], float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for noise, rate in NOISES:
            for seed in SEEDS:
                cells.setdefault((noise, rate), []).append(
                    run(Path(scratch) / f"{noise}{rate}-{seed}", noise, rate, seed)
                )
            print(f"{noise} {rate}: done", flush=True)
    keep("digits", "python -m benchmarks digits", rows_of(cells), seeds=SEEDS, noise="planted")


def rows_of(cells: dict[tuple[str, float], list[dict[tuple[str, str, str], float]]]) -> list[dict[str, Any]]:
    """A row a measure and method, a column a kind of noise: mean and range over the seeds."""
    names = list(next(iter(cells.values()))[0])
    rows = []
    for name in names:
        table, method, checkpoint = name
        row: dict[str, Any] = {
            "measure": {"mislabel": "AUC", "relabel": "relabel accuracy"}[table],
            "method": method,
            "at": checkpoint,
        }
        for (noise, rate), runs in cells.items():
            values = [found[name] for found in runs]
            row[f"{noise} {rate:.0%}"] = f"{statistics.mean(values):.3f} ({min(values):.3f}-{max(values):.3f})"
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
