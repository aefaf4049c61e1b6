"""Language models: does what taught a text come from its own group? Sentence transformations, word problems, novels.

The stages of the workflow from training on, to the evaluation by groups: a small decoder is trained, every method that
scores pairs ranks the train texts for each query, and the rows of the query's own group should come first. For the
made texts the protocol is that of DataInf's code (docs/texts.md): a model that knows plain sentences is fine-tuned for
few steps on whole texts, prompts too. FVM is asked at a SAM minimum (`sam`) and at one found by plain fine-tuning
(`plain`, the paper's VM). Means over the queries, then over the seeds; the range is that of the seeds' AUC. BM25,
TF-IDF, cosine of the model's features and chance stand beside them.

`--small`, the default: one seed of fewer texts; `--full`: five seeds of the full sizes; TEXT_SEEDS=5 in the
environment: so many, in the small setting of the novels one. What SETTINGS say was chosen on seed 0, which is in no
table. What was run is kept in `runs/text/`; `--table` prints a table of that alone.
Novels need Debian's r-cran-janeaustenr, or TEXT_NOVELS=PATH, its Rdata.rdb or a directory with a .txt file a source.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.stages import Run, captured, remembered
from benchmarks.tables import Row, keep
from pipeline.tasks.austen import files_of

SEEDS = {"small": 1, "full": 5}
"""The seeds from 1 on."""
ONCE = ("novels",)
"""Of these the small setting has the first seed alone."""
TASKS = ("sentence_transformations", "word_problems", "novels")
SMALL: dict[str, dict[str, Any]] = {
    "sentence_transformations": {"train_each": 30, "query_each": 5, "epochs": 2},
    "word_problems": {"train_each": 30, "query_each": 5, "epochs": 2},
    "novels": {"train_each": 100, "validation_each": 20, "query_each": 10, "words": 96},
}
SHORT: dict[str, Any] = {
    "flatten": {"steps": 15, "learning_rate": 2e-5},
    "gradients": {"include": ["blocks.*.weight"]},  # where LoRA and LoGra look, too: the layers of the blocks
    "projection": {"dimension": 4096},
    "curvature": {"damping": 100.0},
    "sharpness": {"rows": 32, "draws": 2, "iterations": 4},  # no figure here is of it
}
SETTINGS: dict[str, dict[str, Any]] = {
    "sentence_transformations": SHORT,
    "word_problems": SHORT,
    "novels": {
        "flatten": {"steps": 15, "learning_rate": 2e-5},
        "gradients": {"include": ["word.*", "head.*"]},  # what is of single words: the layers between know no names
        "projection": {"method": "sjlt"},
        "curvature": {"damping": 0.1},
        "sharpness": SHORT["sharpness"],
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


def cell(task: str, place: dict[str, Any], seed: int, setting: str, only_kept: bool) -> list[Row] | None:
    """The rows of a task and seed, a row a method and where it is asked; what knows no minimum counts once."""
    own = {**(SMALL[task] if setting == "small" else {}), "seed": seed}
    config = {"options": own, "strength": STRENGTH, "settings": SETTINGS[task]}
    slug = f"{setting}-{task}-{seed}"
    rows: list[Row] | None = remembered("text", slug, config, lambda: list(_made(task, place | own, slug)), only_kept)
    return rows


def _made(task: str, options: dict[str, Any], slug: str) -> Iterator[Row]:
    trained = None  # by the first run: all start from its weights
    for minimum in MINIMA:
        run = Run("text", f"{slug}-{minimum}", {
            "seed": options["seed"],
            "task": {"class": task, "options": options, "checkpoint": trained},
            **SETTINGS[task],
            "flatten": {"method": minimum, **STRENGTH, **SETTINGS[task]["flatten"]},
        })  # fmt: skip
        run.make([*captured(run.plan, SPLITS), ("retrieval", {})])
        for row in run.table("retrieval"):
            at_flat = row["checkpoint"] == "flat"
            if at_flat or trained is None:
                yield {**row, "task": task, "seed": options["seed"], "at": minimum if at_flat else row["checkpoint"]}
        trained = str(run.layout.checkpoint("trained"))


def over_seeds(rows: list[Row]) -> Iterator[Row]:
    """Means over the seeds, with the range of the AUC."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["method"], row["at"]), []).append(row)
    for (task, method, at), own in groups.items():
        means = {name: statistics.mean(row[name] for row in own) for name in MEASURES}
        areas = [row["auc"] for row in own]
        yield {"task": task, "method": method, "at": at, "control": "yes" if own[0]["control"] else "", **means,
               "AUC, range": f"{min(areas):.3f}-{max(areas):.3f}", "seeds": len(own)}  # fmt: skip


def seeds_of(setting: str) -> Sequence[int]:
    """Those of the setting, or as many as TEXT_SEEDS says."""
    asked = os.environ.get("TEXT_SEEDS", str(SEEDS[setting]))
    if not asked.isdecimal() or asked == "0":
        raise SystemExit(f"expected TEXT_SEEDS to be a number of seeds from 1, got {asked!r}; set another")
    return range(1, int(asked) + 1)


def main(full: bool = False, table_only: bool = False) -> None:
    """Run all cells, seed by seed; one that fails stops the benchmark. `table_only`: a table of those that were run."""
    setting = "full" if full else "small"
    places = {task: novels() if task == "novels" else {} for task in TASKS}
    found: dict[str, list[Row]] = {task: [] for task in TASKS}
    for seed in seeds_of(setting):
        for task, place in places.items():
            if task in ONCE and not full and seed > 1:
                continue
            if place is None and not table_only:
                print("novels: not run, for the texts are not there", flush=True)
            else:
                found[task] += cell(task, place or {}, seed, setting, table_only) or []
    command = f"python -m benchmarks text --{setting}{' --table' if table_only else ''}"
    keep("text", command, [row for rows in found.values() for row in over_seeds(rows)], by="task", setting=setting,
         options=SMALL if not full else {}, strength=STRENGTH["strength"], settings=SETTINGS)  # fmt: skip


if __name__ == "__main__":
    main()
