"""`lowland query`: which training rows drove one prediction, live from the stores."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from pipeline import config as settings
from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.core.influence import SIGNED
from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.steps.query import SIGN, Questions, Stores, open_stores, still_counted
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays
from pipeline.storage.reduction import MB, Workers


@click.command()
@RUN
@click.option(
    "--row",
    "rows",
    metavar="SPLIT:ROW",
    multiple=True,
    help="A row that the run knows: query:17, validation:3 or train:5. Several, or - for one a line from stdin.",
)
@click.option(
    "--input",
    "file",
    type=click.Path(path_type=Path),
    help="A point that no set contains: .npy, .json, .png, .txt, as the task reads them.",
)
@click.option("--label", help="Label of --input. [default: the model's own prediction]")
@click.option(
    "--on",
    "part",
    metavar="PART",
    help="Ask about a part alone: words of a text's completion, or its tokens as 3:5; as the task takes it.",
)
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
    rows: tuple[str, ...],
    file: Path | None,
    label: str | None,
    part: str | None,
    k: int,
    score: str,
    bottom: bool,
    exact: bool,
    dask: str | None,
    as_json: bool,
) -> None:
    """The training rows that mattered most for one prediction, best first.

    A signed score is positive where training on the row lowered the query's loss (it helped). Answers come from the
    stores: any k, score and direction, without the model, but for --input and --on, which capture a gradient first.

    \b
    lowland query runs/demo --row query:17                     most helpful rows
    lowland query runs/demo --row query:17 --bottom -k 3       most harmful ones
    lowland query runs/demo --input mine.npy --label 3
    lowland query runs/demo --row - --json                     answers each line of stdin in a line
    lowland query runs/texts --row query:3 --on "the boat"     what taught these words
    """
    layout = layout_of(run)
    plan = Plan.load(layout.plan)
    name, checkpoint = settings.parse_score(score)
    text = f"{name}@{checkpoint}"
    if bool(rows) == (file is not None):
        raise DataError(
            "expected either --row SPLIT:ROW or --input FILE, got " + ("both" if rows else "neither") + "; give one"
        )
    if part is not None and (len(rows) > 1 or "-" in rows):
        raise DataError(f"expected one --row with --on, got {len(rows) if len(rows) > 1 else '-'}; ask one by one")
    stores, questions = open_stores(layout, plan, text, live_workers(layout, dask)), Questions(layout, plan, text)
    counted = still_counted(layout, plan, text)
    note = f"; the curvature still counts {counted} retired rows: `lowland run --workdir {run}` takes them out"
    answers = Answers(stores, bottom, k, exact, _labels(layout, plan), text, note if counted else "")
    if file is not None or part is not None:
        from pipeline.steps.unseen import Asked, unseen_vector

        asked = Asked(parse_row(rows[0]) if file is None else file, label, part)
        vector, label_note = unseen_vector(layout, plan, text, asked)
        show_answer(answers, str(asked), vector, as_json, label_note)
    elif "-" in rows:
        _serve(answers, questions, as_json)
    else:
        _answer(answers, questions, [parse_row(row) for row in rows], as_json)


@dataclass(frozen=True)
class Answers:
    """What is answered; `labels` are given labels of the train rows by position, and names of classes."""

    stores: Stores
    bottom: bool
    k: int
    exact: bool
    labels: tuple[Any, tuple[str, ...]] | None
    text: str
    note: str

    def table(self, vector: Any) -> list[dict[str, Any]]:
        """The rows that answer a query vector [1, K], best first."""
        ranked = self.stores.answer(vector, self.k, self.bottom, self.exact)
        rows = []
        for rank, (found, value) in enumerate(zip(ranked.ids[0], ranked.scores[0], strict=True), 1):
            row = {"rank": rank, "row": int(found), "score": float(value)}
            rows.append(row if self.labels is None else {**row, "label": self.labels[1][self.labels[0][found]]})
        return rows

    @property
    def direction(self) -> str:
        """Top or bottom."""
        return "bottom" if self.bottom else "top"


def _answer(answers: Answers, questions: Questions, rows: list[tuple[str, int]], as_json: bool) -> None:
    """Print the answers to some rows; as JSON in one list."""
    asked = [(f"{split}:{position}", questions.vectors(split, np.array([position]))) for split, position in rows]
    if as_json:
        show([row for name, vector in asked for row in _named(answers, name, answers.table(vector))], True, "")
        return
    for name, vector in asked:
        show_answer(answers, name, vector, as_json)


def show_answer(answers: Answers, asked: str, vector: Any, as_json: bool, note: str = "") -> None:
    """Print the answer to one query vector."""
    rows = answers.table(vector)
    sign = SIGN[SIGNED[answers.stores.score]]
    header = f"{answers.direction} {len(rows)} train rows for {asked} by {answers.text}, {sign}{note}{answers.note}"
    show(_named(answers, asked, rows) if as_json else rows, as_json, header)


def _named(answers: Answers, asked: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"query": asked, "score_name": answers.text, "direction": answers.direction, **row} for row in rows]


def _serve(answers: Answers, questions: Questions, as_json: bool) -> None:
    """Answer each line of stdin as it comes; a line that cannot be answered says why, and the next one is read."""
    failed = False
    for line in sys.stdin:
        if not (asked := line.strip()):
            continue
        try:
            split, position = parse_row(asked)
            vector = questions.vectors(split, np.array([position]))
            if as_json:
                click.echo(json.dumps(_named(answers, asked, answers.table(vector))))
            else:
                show_answer(answers, asked, vector, as_json)
        except DataError as error:
            failed = True
            click.echo(json.dumps({"query": asked, "error": str(error)}) if as_json else f"lowland: {error}")
        sys.stdout.flush()
    if failed:
        sys.exit(DataError.exit_code)


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


def _labels(layout: Layout, plan: Plan) -> tuple[Any, tuple[str, ...]] | None:
    """Given labels of all train rows, and names of classes; None where the task has none."""
    if not plan.labelled:
        return None
    _, arrays = open_arrays(layout.hashes, "rows")
    return arrays.read("train_label"), plan.classes
