"""`lowland evaluate`: scores against true labels, beside the simple controls."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.cli.locks import held
from pipeline.cli.run import all_cores, drive
from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.storage.artefact import manifest_path, open_artefact

HEADERS = {
    "mislabel": "finding wrong labels (positives: given label differs from the true one)",
    "relabel": "suggesting the true label, on the rows whose given label is wrong",
}


@click.command()
@RUN
@JSON
def evaluate(run: Path, as_json: bool) -> None:
    """Judge every score of RUN against the task's true labels. No estimator sees them."""
    layout = layout_of(run)
    if not Plan.load(layout.plan).truth:
        raise DataError(
            "expected a task with true_labels to evaluate against, got one without; give it the property true_labels"
        )
    with held(run):
        drive(run, all_cores(), ["results/evaluation/mislabel.json"])
    for table, header in HEADERS.items():
        path = layout.evaluation(table)
        if manifest_path(path).is_file():
            rows = open_artefact(path, "evaluation").record["rows"]
            if not rows:
                raise DataError(
                    "expected both right and wrong labels to evaluate on, got only one kind; compare true_labels with "
                    "labels"
                )
            show(rows, as_json, header)
