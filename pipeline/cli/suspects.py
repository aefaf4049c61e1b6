"""`lowland suspects`: the training rows that harm the model, worst first, with the label that each should have."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.shards import Plan
from pipeline.steps.ranking import COLUMN, read_suspects


@click.command()
@RUN
@click.option("--top", default=20, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option("--score", default="s", show_default=True, type=click.Choice(list(COLUMN)), help="What to rank by.")
@JSON
def suspects(run: Path, top: int, score: str, as_json: bool) -> None:
    """The training rows that harm the model most: wrong labels and junk.

    S (fvm) is g^T (C + lambda)^-1 g at the flat validation minimum: unsigned, larger is more harmful. The suggested
    label is the one under which S is least; margin is S(given label) - S(suggested label).
    """
    layout = layout_of(run)
    found = read_suspects(layout, Plan.load(layout.plan), score, top)
    header = f"top {len(found)} suspects by {COLUMN[score]}; unsigned, larger is more suspicious"
    show([suspect.plain() for suspect in found], as_json, header)
