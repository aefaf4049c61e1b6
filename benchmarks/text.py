"""Language models: does what taught a text come from its own group? Sentence transformations, word problems, novels.

The stages of the workflow from training on, to the evaluation by groups: a small decoder is trained, every method that
scores pairs ranks the train texts for each query, and the rows of the query's own group should come first. For the
made texts the protocol is that of DataInf's code (docs/texts.md): a model that knows plain sentences is fine-tuned for
few steps on whole texts, prompts too. FVM is asked at a SAM minimum (`sam`) and at one found by plain fine-tuning
(`plain`, the paper's VM). Means over the queries, then over the seeds; the range is that of the seeds' AUC. BM25,
TF-IDF, cosine of the model's features and chance stand beside them.

`--small`, the default: one seed of fewer texts; `--full`: five seeds of the full sizes. What SETTINGS say was
chosen on seed 0, which is in no table. Runs are kept in `runs/text/`.
Novels need Debian's r-cran-janeaustenr, or TEXT_NOVELS=PATH, its Rdata.rdb or a directory with a .txt file a source.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.stages import Run, captured
from benchmarks.tables import keep
from pipeline.tasks.austen import files_of

SEEDS = {"small": (1,), "full": (1, 2, 3, 4, 5)}
TASKS = ("sentence_transformations", "word_problems", "novels")
SMALL: dict[str, dict[str, Any]] = {
    "sentence_transformations": {"train_each": 30, "query_each": 5, "epochs": 2},
    "word_problems": {"train_each": 30, "query_each": 5, "epochs": 2},
    "novels": {"train_each": 100, "query_each": 10, "words": 96},
}
SHORT: dict[str, Any] = {
    "flatten": {"steps": 15, "learning_rate": 2e-5},
    "gradients": {"include": ["blocks.*.weight"]},  # where LoRA and LoGra look, too: the layers of the blocks
    "projection": {"dimension": 4096},
    "curvature": {"damping": 100.0},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sentence_transformations": SHORT,
    "word_problems": SHORT,
    "novels": {
        "flatten": {"steps": 15, "learning_rate": 2e-5},
        "gradients": {"include": ["word.*", "head.*"]},  # what is of single words: the layers between know no names
        "projection": {"method": "sjlt", "dimension": 8192},
        "curvature": {"damping": 0.1},
    },
}
"""Chosen on seed 0. Losses are sums over tokens, of some hundred nats, so that rates of descents are small."""
STRENGTH = {"strength": 0.1, "watch": False}
"""Choosing it would take most of a run."""
SPLITS = ("train", "validation", "query")
MINIMA = ("sam", "plain")
MEASURES = ("auc", "recall", "share of the best 10")


def novels() -> dict[str, Any] | None:
    """Options that say where the novels are; None where they are not."""
    given = os.environ.get("TEXT_NOVELS")
    files = [Path(file) for file in files_of(Path(given) if given else None)]
    if not files or not all(file.is_file() for file in files):
        return None
    return {"path": given} if given else {}


def made(task: str, options: dict[str, Any], seed: int, setting: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each minimum and the rows of its evaluation; all start from the weights that the first run trained."""
    trained = None
    for minimum in MINIMA:
        run = Run("text", f"{setting}-{task}-{seed}-{minimum}", {
            "seed": seed,
            "task": {"class": task, "options": {**options, "seed": seed}, "checkpoint": trained},
            **SETTINGS[task],
            "flatten": {"method": minimum, **STRENGTH, **SETTINGS[task]["flatten"]},
        })  # fmt: skip
        run.make([*captured(run.plan, SPLITS), ("retrieval", {})])
        trained = str(run.layout.checkpoint("trained"))
        yield minimum, run.table("retrieval")


def cells(setting: str) -> Iterator[dict[str, Any]]:
    """A row a task, minimum, seed and method; what knows no minimum counts once."""
    for task in TASKS:
        place = novels() if task == "novels" else {}
        if place is None:
            print("novels: not run, for the texts are not there", flush=True)
            continue
        options = {**place, **(SMALL[task] if setting == "small" else {})}
        for seed in SEEDS[setting]:
            for minimum, found in made(task, options, seed, setting):
                for row in found:
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


def main(full: bool = False) -> None:
    """Run all cells; one that fails stops the benchmark."""
    setting = "full" if full else "small"
    rows = list(over_seeds(list(cells(setting))))
    keep("text", f"python -m benchmarks text --{setting}", rows, by="task", setting=setting, options=SMALL if not full
         else {}, strength=STRENGTH["strength"], settings=SETTINGS, seeds=SEEDS[setting])  # fmt: skip


if __name__ == "__main__":
    main()
