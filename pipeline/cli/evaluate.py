"""`lowland evaluate`: against true labels, groups of rows and retrained models, beside the simple controls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.cli.locks import held
from pipeline.cli.run import arguments_of, drive, given_config
from pipeline.errors import DataError, TaskError
from pipeline.retrainings import check_single
from pipeline.shards import Plan
from pipeline.steps.against import compare, differences
from pipeline.steps.job import Job
from pipeline.steps.shared import shared_rows
from pipeline.storage.artefact import manifest_path, open_artefact
from pipeline.storage.layout import Layout

HEADERS = {
    "mislabel": "finding wrong labels (positives: given label differs from the true one)",
    "relabel": "suggesting the true label, on the rows whose given label is wrong",
    "retrieval": "finding train rows of the query's own group, mean over the query rows",
    "stability": "agreement of the best rows under other dampings (overlap: share in common; chance: of random rows)",
    "lds-half": "predicting models on random subsets (LDS; low and high: bootstrapped interval of 95 %)",
    "lds-most": "the same on the subsets of memorisation",
    "lds-single": "predicting models without one row (leave-one-out; low and high as above)",
    "retraining-removal": "accuracy on the query rows after retraining (gains paired by seed, with standard errors)",
    "retraining-cleansing": "the task's metric on the query rows after retraining (gains paired by seed, with errors)",
    "replay": "the joint training's last epochs replayed without a row, and without the worst tenth",
    "memorised": "memorisation of the train rows",
    "retraining-memorised": "accuracy on the query rows without the memorised rows",
    "against": "agreement of the best rows with those of other runs, matched by content",
}
"""Tables, in the order in which they are printed."""

WANTED = {
    "stability": ("stability",),
    "lds": ("lds-half",),
    "leave_one_out": ("lds-single",),
    "retrain": ("retraining-removal",),
    "replay": ("replay",),
    "memorisation": ("memorised", "lds-most", "retraining-memorised"),
}
"""Option: the tables that it asks for."""

MADE_WITH = {"memorised": "memorisation", "relabel": "mislabel"}
"""Tables that are written beside another one, which is the rule's output."""


@click.command()
@RUN
@click.option(
    "--lds", is_flag=True, help="Against models on random halves of the train rows: which scores predict them."
)
@click.option(
    "--leave-one-out", is_flag=True, help="Against models without one row: mostly the randomness of training."
)
@click.option(
    "--retrain", is_flag=True, help="Retrain without the suspects, with mended labels, on the half that matters."
)
@click.option(
    "--replay", is_flag=True, help="GANs: replay the last epochs without a row, and without the most harmful ones."
)
@click.option(
    "--memorisation", is_flag=True, help="Memorisation of every row, and influence of every pair, by retraining."
)
@click.option("--stability", is_flag=True, help="Agreement of the best rows with those under other dampings.")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="RUN",
    help="Agreement with another run: of another seed, projection or model, row for row by content. May be repeated.",
)
@click.option("--cores", type=click.IntRange(min=1), help="Cores to use. [default: all]")
@click.option("--profile", help="How to run: local, slurm, or a directory with a Snakemake profile.")
@JSON
def evaluate(
    run: Path, against: tuple[Path, ...], cores: int | None, profile: str | None, as_json: bool, **asked: bool
) -> None:
    """Judge what RUN answers, against the task's true labels, its groups of rows and, where asked, retrained models.

    Scores of rows are judged by true labels, what drove a prediction by groups; no estimator sees either. Retrained
    models are kept: what was broken off goes on where it stopped. How many there are is said under `retrain` in the
    config, what they show in docs/evaluation.md.

    \b
    lowland evaluate runs/demo                  finding and mending wrong labels
    lowland evaluate runs/demo --lds            120 models on halves of the rows
    lowland evaluate runs/demo --memorisation   400 models on 70 % of the rows
    lowland evaluate runs/demo --stability      the same answers under other dampings?
    lowland evaluate runs/demo --against runs/other
    """
    layout, others = layout_of(run), [layout_of(other) for other in against]
    plan = Plan.load(layout.plan)
    tables = [_fitting(plan, table) for name, wanted in WANTED.items() if asked[name] for table in wanted]
    _check(plan, tables, bool(others))
    if "lds-single" in tables:
        check_single(given_config(None, run).retrain, plan.splits["train"].rows - len(plan.retired))
    more = bool(tables or others)
    tables = [*(["mislabel", "relabel"] if plan.truth else []), *(["retrieval"] if plan.groups else []), *tables]
    targets = list(dict.fromkeys(f"results/evaluation/{MADE_WITH.get(table, table)}.json" for table in tables))
    given = {"cores": cores, "profile": profile, "dask": None, "snakemake_arguments": ()}
    options = {**given, "force": (), "refit": False, "until": None, "dry_run": False}
    with held(run):
        if targets:
            drive(run, arguments_of(options), targets)
        found = {
            table: rows for table in HEADERS if table in tables and (rows := _rows(layout, table, more)) is not None
        }
        if others:
            found["against"] = compare(Job("stability", layout, given_config(None, run), lambda line: None), others)
    differing = {str(other.run): differences(layout, other) for other in others}
    if as_json:
        click.echo(json.dumps({**found, "differences": differing, "shared_rows": shared_rows(layout)}, indent=1))
        return
    for table, rows in found.items():
        show(rows, False, HEADERS[table])
        if table == "relabel":
            say_unjudged(rows[0], plan)
    for other, keys in differing.items():
        click.echo(f"{run} and {other} differ in {', '.join(keys) or 'no setting'}")
    for line in shared_rows(layout):
        click.echo(line)


def say_unjudged(row: dict[str, Any], plan: Plan) -> None:
    """How many wrong rows no label is suggested for by S, so that none is judged on them."""
    if row["rows"] < row["wrong"]:
        click.echo(
            f"labels are judged on {row['rows']} of {row['wrong']} rows whose label is wrong: the others have no "
            "gradients under every label; all have them with candidates.rows all and candidates.max_classes "
            f"{len(plan.classes)} or more"
        )


def _fitting(plan: Plan, table: str) -> str:
    """Without labels there is nothing to mend, and no oracle: suspects are only removed."""
    return "retraining-cleansing" if table == "retraining-removal" and not plan.labelled else table


def _check(plan: Plan, tables: list[str], compared: bool) -> None:
    """What can be known before any model is trained.

    Raises:
        DataError: nothing to evaluate against, or no query rows to judge retrained models on.
        TaskError: the task does not train.
    """
    if not plan.truth and not plan.groups and not tables and not compared:
        raise DataError(
            "expected a task with true_labels or groups to evaluate against, got one without; give it the property "
            "true_labels or the method groups(split), or ask for --lds, --leave-one-out, --retrain, --replay, "
            "--memorisation, --stability or --against"
        )
    tables = [table for table in tables if table not in WANTED["stability"]]
    if tables and not plan.trains:
        raise TaskError(
            "expected a task that trains its model to retrain it on other rows, got one without train(self, model); "
            "write `train`, which takes its rows from self.train_rows()"
        )
    if tables and not plan.splits["query"].rows:
        raise DataError("expected query rows to judge retrained models on, got none; give the task query_rows")


def _rows(layout: Layout, table: str, more: bool) -> list[dict[str, Any]] | None:
    """The rows of a table; None where it was not made, or is empty and more is asked for.

    Raises:
        DataError: the truth knows only one kind of label, and nothing else is asked for.
    """
    path = layout.evaluation(table)
    if not manifest_path(path).is_file():
        return None
    rows: list[dict[str, Any]] = open_artefact(path, "evaluation").record["rows"]
    if not rows and more:
        return None
    if not rows:
        raise DataError(
            "expected both right and wrong labels to evaluate on, got only one kind; compare true_labels with labels"
        )
    return rows
