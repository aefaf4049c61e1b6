"""Language models: does what taught a text come from its own group? Sentence transformations, word problems, novels.

The whole workflow from training on, then `lowland evaluate`: a small decoder is trained from scratch, every method that
scores pairs ranks the train texts for each query, and the rows of the query's own group should come first. FVM is asked
at a SAM minimum (`sam`) and at one found by plain fine-tuning (`plain`, the paper's VM). Means over the queries, then
over the seeds; the range is that of the seeds' AUC. BM25, TF-IDF, cosine of the model's features and chance stand
beside them.

`TEXT_SMALL=1` runs one seed of fewer texts; the whole takes five seeds of the full sizes.
Novels need Debian's r-cran-janeaustenr, or TEXT_NOVELS=DIRECTORY with a .txt file a source.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.tables import keep
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.tasks.austen import files_of

SMALL = bool(os.environ.get("TEXT_SMALL"))
SEEDS = (0,) if SMALL else (0, 1, 2, 3, 4)
OPTIONS: dict[str, dict[str, Any]] = {
    "sentence_transformations": {"train_each": 30, "query_each": 5} if SMALL else {},
    "word_problems": {"train_each": 30, "query_each": 5} if SMALL else {},
    "novels": {"train_each": 100, "query_each": 10, "epochs": 4} if SMALL else {},
}
FLATTEN: dict[str, Any] = {"strength": 0.1, "watch": False, "steps": 150} if SMALL else {}
"""The small setting takes the strength as given: choosing it takes most of a run."""
MINIMA = ("sam", "plain")
MEASURES = ("auc", "recall", "share of the best 10")


def novels() -> dict[str, Any] | None:
    """Options that say where the novels are; None where they are not."""
    given = os.environ.get("TEXT_NOVELS")
    files = [Path(file) for file in files_of(Path(given) if given else None)]
    if not files or not all(file.is_file() for file in files):
        return None
    return {"path": given} if given else {}


def run(directory: Path, task: str, options: dict[str, Any], minimum: str, seed: int) -> list[dict[str, Any]]:
    """One run of the workflow: the rows of its evaluation."""
    directory.mkdir(parents=True)
    overlay = {
        "seed": seed,
        "task": {"class": task, "options": {**options, "seed": seed}},
        "flatten": {"method": minimum, **FLATTEN},
    }
    config = directory.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(overlay), encoding="utf-8")
    command = [sys.executable, "-m", "pipeline", "run", "-c", str(config), "--workdir", str(directory)]
    subprocess.run([*command, "--until", "retrieval"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found: list[dict[str, Any]] = open_artefact(Layout(directory).evaluation("retrieval"), "evaluation").record["rows"]
    return found


def cells(scratch: Path) -> Iterator[dict[str, Any]]:
    """A row a task, minimum, seed and method; what knows no minimum counts once."""
    for task, options in OPTIONS.items():
        place = novels() if task == "novels" else {}
        if place is None:
            print("novels: not run, for the texts are not there", flush=True)
            continue
        for seed in SEEDS:
            for minimum in MINIMA:
                for row in run(scratch / f"{task}-{seed}-{minimum}", task, {**options, **place}, minimum, seed):
                    at_flat = row["checkpoint"] == "flat"
                    if at_flat or minimum == MINIMA[0]:
                        yield {**row, "task": task, "seed": seed, "at": minimum if at_flat else row["checkpoint"]}
            print(f"{task}, seed {seed}: done", flush=True)


def over_seeds(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Means over the seeds, with the range of the AUC."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"], row["at"]), []).append(row)
    for (task, method, at), own in groups.items():
        means = {name: statistics.mean(row[name] for row in own) for name in MEASURES}
        areas = [row["auc"] for row in own]
        yield {"task": task, "method": method, "at": at, "control": "yes" if own[0]["control"] else "", **means,
               "AUC, range": f"{min(areas):.3f}-{max(areas):.3f}", "seeds": len(own)}  # fmt: skip


def main() -> None:
    """Run all cells; one that fails stops the benchmark."""
    with tempfile.TemporaryDirectory(prefix="text-") as scratch:
        rows = list(over_seeds(list(cells(Path(scratch)))))
    setting = "small" if SMALL else "full"
    keep("text", f"{'TEXT_SMALL=1 ' if SMALL else ''}python -m benchmarks text", rows, by="task", setting=setting,
         options=OPTIONS, seeds=SEEDS)  # fmt: skip


if __name__ == "__main__":
    main()
