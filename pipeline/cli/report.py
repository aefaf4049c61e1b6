"""`lowland report`: the page of a run, made anew where something changed."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import RUN, layout_of
from pipeline.cli.locks import held
from pipeline.cli.run import all_cores, drive


@click.command()
@RUN
def report(run: Path) -> None:
    """Bring the report of RUN up to date and say where it is."""
    layout = layout_of(run)
    with held(run):
        drive(run, all_cores(), ["results/report/index.json"])
    click.echo(layout.report)
