"""`lowland verify`: is everything that a run holds whole, and does it belong together?"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.cli.locks import held
from pipeline.errors import StoreError
from pipeline.steps.seen import unseen_share
from pipeline.steps.verify import find_faults, repair
from pipeline.storage.layout import Layout


@click.command()
@RUN
@click.option("--repair", "mend", is_flag=True, help="Remove what has a fault, so that `lowland run` makes it again.")
@JSON
def verify(run: Path, mend: bool, as_json: bool) -> None:
    """Check every file of RUN against its checksum, and every artefact against what it was made from.

    Of the indexes, ids and a sample of the vectors are compared with the stores. --repair removes the artefacts that
    have a fault, and no other; the next `lowland run` makes them, and what follows from them.

    Exit code 0 where all is well or was removed as told, 2 where something is not.
    """
    layout = layout_of(run)
    with held(run) if mend else nullcontext():
        checked, faults = find_faults(layout)
        removed = repair(layout, faults) if mend else []
    rows = [
        {
            "artefact": str(fault.artefact),
            "fault": fault.what,
            **({"removed": fault.artefact in removed} if mend else {}),
        }
        for fault in faults
    ]
    show(rows, as_json, f"{checked} artefacts checked, {len(rows)} faults{_unseen(layout)}")
    if faults and not mend:
        raise StoreError(
            f"expected a whole run, got {len(faults)} faults as listed; run `lowland run`, and where a file is "
            f"damaged, `lowland verify {run} --repair` before"
        )
    if removed and not as_json:
        click.echo(f"{len(removed)} artefacts removed; `lowland run --workdir {run}` makes them again")


def _unseen(layout: Layout) -> str:
    """A note on train rows that the checkpoints have not seen."""
    try:
        share = unseen_share(layout)
    except StoreError:
        return ""
    return f"; {share:.1%} of the train rows came after the checkpoints were made" if share else ""
