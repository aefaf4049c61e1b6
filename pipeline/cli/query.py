"""`lowland query`: which training rows drove one prediction, live from the stores."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline import config as settings
from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.core.influence import SIGNED
from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.steps.query import SIGN, open_stores, query_vectors, still_counted
from pipeline.steps.stores import open_arrays
from pipeline.storage.layout import Layout
from pipeline.storage.reduction import MB, Workers


@click.command()
@RUN
@click.option("--row", metavar="SPLIT:ROW", help="A row that the run knows: query:17, validation:3 or train:5.")
@click.option(
    "--input",
    "file",
    type=click.Path(path_type=Path),
    help="A point that no set contains: .npy, .json, .png, .txt, as the task reads them.",
)
@click.option("--label", help="Label of --input. [default: the model's own prediction]")
@click.option("-k", default=10, show_default=True, help="How many rows.")
@click.option(
    "--score",
    default="influence",
    show_default=True,
    help="influence (signed, at trained), fvm (unsigned, at flat) or cosine; with @trained or @flat to choose.",
)
@click.option("--bottom", is_flag=True, help="The most harmful rows instead of the most helpful.")
@click.option("--exact", is_flag=True, help="Scan all codes instead of asking the index.")
@click.option("--dask", metavar="ADDRESS", help="Scan on a running dask cluster: tcp://HOST:8786.")
@JSON
def query(
    run: Path,
    row: str | None,
    file: Path | None,
    label: str | None,
    k: int,
    score: str,
    bottom: bool,
    exact: bool,
    dask: str | None,
    as_json: bool,
) -> None:
    """The training rows that mattered most for one prediction, best first.

    A signed score is positive where training on the row lowered the query's loss (it helped). Answers come from the
    stores: any k, score and direction, without the model, but for --input, whose gradient is captured first.

    \b
    lowland query runs/demo --row query:17                     most helpful rows
    lowland query runs/demo --row query:17 --bottom -k 3       most harmful ones
    lowland query runs/demo --input mine.npy --label 3
    """
    layout = layout_of(run)
    plan = Plan.load(layout.plan)
    name, checkpoint = settings.parse_score(score)
    text = f"{name}@{checkpoint}"
    if (row is None) == (file is None):
        raise DataError(
            "expected either --row SPLIT:ROW or --input FILE, got " + ("both" if row else "neither") + "; give one"
        )
    stores = open_stores(layout, plan, text, live_workers(layout, dask))
    if file is not None:
        from pipeline.steps.unseen import unseen_vector

        asked, vector, note = str(file), *unseen_vector(layout, plan, text, file, label)
    else:
        split, position = parse_row(str(row))
        asked, note = f"{split}:{position}", ""
        vector = query_vectors(layout, plan, text, split, np.array([position]))
    ranked = stores.answer(vector, k, bottom, exact)
    labels = _labels(layout, plan)
    rows = [
        {"rank": i, "row": int(found), "score": float(value), **({"label": labels[int(found)]} if labels else {})}
        for i, (found, value) in enumerate(zip(ranked.ids[0], ranked.scores[0], strict=True), 1)
    ]
    direction = "bottom" if bottom else "top"
    header = f"{direction} {len(rows)} train rows for {asked} by {text}, {SIGN[SIGNED[name]]}{note}"
    counted = still_counted(layout, plan, text)
    if counted:
        header += f"; the curvature still counts {counted} retired rows: `lowland run --workdir {run}` takes them out"
    if as_json:
        rows = [{"query": asked, "score_name": text, "direction": direction, **each} for each in rows]
    show(rows, as_json, header)


def live_workers(layout: Layout, dask: str | None) -> Workers:
    """All cores of this machine, within the memory that the run allows a job; or a cluster."""
    compute = settings.merge(settings.defaults(), settings.read_yaml(layout.config))["compute"]
    return Workers(os.cpu_count() or 1, compute["memory_mb"] * MB, dask)


def parse_row(text: str) -> tuple[str, int]:
    """The row "query:17" as ("query", 17).

    Raises:
        DataError: another form.
    """
    split, colon, position = text.partition(":")
    if not colon or split not in settings.SPLITS or not position.lstrip("-").isdecimal():
        raise DataError(
            "expected a row such as query:17, validation:3 or train:5, got "
            f"{text!r}{'' if split in settings.SPLITS else settings.nearest(split, settings.SPLITS)}"
        )
    return split, int(position)


def _labels(layout: Layout, plan: Plan) -> list[Any] | None:
    """Names of the given labels of all train rows; None where the task has none."""
    if not plan.labelled:
        return None
    _, arrays = open_arrays(layout.hashes, "rows")
    return [plan.classes[label] for label in arrays.read("train_label")]
