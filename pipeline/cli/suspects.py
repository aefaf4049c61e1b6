"""`lowland suspects`: the training rows that harm the model, worst first, with the label that each should have."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.shards import Plan
from pipeline.steps.ranking import COLUMN, column_of, read_suspects
from pipeline.steps.titles import named


@click.command()
@RUN
@click.option("--top", default=20, show_default=True, type=click.IntRange(min=1), help="How many rows.")
@click.option(
    "--score",
    type=click.Choice(list(COLUMN)),
    help="What to rank by. [default: the config's suspects.score: wrong, or s where the task gives no labels]",
)
@JSON
def suspects(run: Path, top: int, score: str | None, as_json: bool) -> None:
    """The training rows that harm the model most: wrong labels and junk.

    wrong is -ln of the posterior that the given label is the true one, from flat validation minima, the model itself,
    what all other rows say of a row, and the confusions of the classes. S (fvm) is g^T (C + lambda)^-1 g at the flat
    minimum. Both are unsigned: larger is more suspicious. The suggested label is the one under which S is least, margin
    the difference to the given one: it may be the given one. otherwise is what the label is if the given one is wrong:
    the likeliest other one.

    Which suspects survive the randomness of training? Two more columns say so where the run has recorded it: stable is
    the share of the train rows that have less loss than the row at the flat minimum of another training, from another
    seed, and mu is f-INE's, of a training step with the row against one without, on the validation loss (negative:
    harms). What they are worth is in docs/stability.md. To have them, put into the config

    \b
      checkpoints: {epochs: [2, 5, 10, 20, 50], twin: true}   # epochs of your training
      scores: {estimators: [w, self_influence, tracin, classical, fine, lasting]}

    and run again: the training is run twice more, and gradients are captured at each of these epochs.
    """
    layout = layout_of(run)
    plan = Plan.load(layout.plan)
    column = score or column_of(layout, plan)
    found = read_suspects(layout, plan, column, top)
    header = f"top {len(found)} suspects by {named(layout, COLUMN[column])}; unsigned, larger is more suspicious"
    if not score and not plan.labelled:
        header += "; the task gives no labels, so that none can be called wrong"
    if found and "stable" in found[0].stability:
        header += "; stable: share of the rows with less loss after another training"
    show([suspect.plain() for suspect in found], as_json, header)
