"""`lowland retire`: take train rows out of every answer, or bring them back; `lowland compact`: out of the stores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.cli.locks import held
from pipeline.cli.run import all_cores, drive
from pipeline.errors import DataError
from pipeline.shards import Plan
from pipeline.steps import retire as tombstones
from pipeline.steps.ranking import Ranked, column_of, read_suspects
from pipeline.steps.tombstones import read, resolve
from pipeline.storage.layout import Layout


@click.command()
@RUN
@click.option("--rows", "words", help="Positions and ranges, or content hashes: 3,17,20-29.")
@click.option(
    "--file", type=click.Path(path_type=Path), help="The same from a file, separated by commas, blanks or lines."
)
@click.option("--suspects", type=click.IntRange(min=1), metavar="N", help="The N first rows of `lowland suspects`.")
@click.option("--restore", is_flag=True, help="Bring the rows back; without any, all that are retired.")
@JSON
def retire(run: Path, words: str | None, file: Path | None, suspects: int | None, restore: bool, as_json: bool) -> None:
    """Take train rows of RUN out of every answer; without rows, list those that are.

    Nothing is captured again, and your data stay as they are. Query, suspects and report leave the rows out at once;
    the next `lowland run` takes them out of the curvature of the train rows and of the tables. A row is known by its
    position and content: when rows move, the tombstone follows, and a row whose content is changed takes part again.

    \b
    lowland retire runs/demo --rows 17,20-29
    lowland retire runs/demo --suspects 50
    lowland retire runs/demo --rows 17 --restore
    """
    layout = layout_of(run)
    rows = _rows(layout, words, file, suspects)
    if rows is None and not restore:
        return _list(layout, as_json)
    with held(run):
        changed = tombstones.restore(layout, rows) if restore else tombstones.retire(layout, rows or [])
    left = len(Plan.load(layout.plan).retired)
    what = {"restored" if restore else "retired": changed, "retired in all": left}
    show([what], as_json, f"in force at once; `lowland run --workdir {run}` brings curvature and tables up to date")


@click.command()
@RUN
def compact(run: Path) -> None:
    """Rewrite the shards of RUN that hold retired rows without them; sums, index and tables follow.

    No gradient is captured. A row that is restored later is captured then.
    """
    layout = layout_of(run)
    with held(run):
        tombstones.compact(layout)
        drive(run, all_cores())
    click.echo(f"{len(Plan.load(layout.plan).retired)} retired rows are in no store")


def _suspects(layout: Layout, count: int) -> list[Ranked]:
    plan = Plan.load(layout.plan)
    return read_suspects(layout, plan, column_of(layout, plan), count)


def _rows(layout: Layout, words: str | None, file: Path | None, suspects: int | None) -> Sequence[int] | None:
    """The rows that the options name; None without any."""
    if sum(option is not None for option in (words, file, suspects)) > 1:
        raise DataError("expected one of --rows, --file and --suspects, got several; give one")
    if suspects is not None:
        return [each.row for each in _suspects(layout, suspects)]
    if file is not None:
        try:
            words = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"expected a text file with rows at {file}, got none that can be read; check the path"
            ) from error
    return None if words is None else tombstones.parse(words.replace(",", " ").split(), tombstones.contents(layout))


def _list(layout: Layout, as_json: bool) -> None:
    here, lost = resolve(read(layout), tombstones.contents(layout))
    rows = [{"row": each.row, "content": each.content, "in the stores": not each.compacted, "in the data": each in here}
            for each in (*here, *lost)]  # fmt: skip
    show(rows, as_json, f"{len(here)} retired train rows; {len(lost)} more that the data hold no longer")
