"""Runs of the workflow that are kept, under `runs/NAME/`: what was broken off goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout

RUNS = Path(__file__).parent.parent / "runs"
FINISHED = "finished.yaml"
"""In the directory of a run that was made stage by stage: the configuration by which all of it was done."""


def evaluated(name: str, slug: str, config: dict[str, Any], option: str, table: str) -> list[dict[str, Any]]:
    """The rows of a table of `lowland evaluate`, of a run that is made or brought up to date.

    Args:
        name: of the benchmark.
        slug: of the run.
        config: of the run, over the defaults.
        option: of `lowland evaluate`, such as --lds.
        table: its name.

    Raises:
        SystemExit: the workflow failed.
    """
    directory = RUNS / name / slug
    directory.parent.mkdir(parents=True, exist_ok=True)
    file = directory.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for command in (["run", "-c", file, "--workdir", directory, "--until", "train"], ["evaluate", directory, option]):
        words = [sys.executable, "-m", "pipeline", *map(str, command), "--cores", str(cores)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}, {slug}, failed: no table.\n{done.stderr[-2000:]}")
    print(f"done: {slug}", flush=True)
    return kept_rows(name, slug, table)


def kept_rows(name: str, slug: str, table: str) -> list[dict[str, Any]]:
    """The rows of another table that the same evaluation wrote."""
    path = Layout(RUNS / name / slug).evaluation(table)
    rows: list[dict[str, Any]] = open_artefact(path, "evaluation").record["rows"]
    return rows
