"""`lowland verify`: is everything that a run holds whole, and does it belong together?"""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.cli.common import JSON, RUN, layout_of, show
from pipeline.errors import StoreError
from pipeline.steps.verify import find_faults


@click.command()
@RUN
@JSON
def verify(run: Path, as_json: bool) -> None:
    """Check every file of RUN against its checksum, and every artefact against what it was made from.

    Exit code 0 where all is well, 2 where something is not.
    """
    layout = layout_of(run)
    checked, faults = find_faults(layout)
    rows = [{"artefact": str(fault.artefact), "fault": fault.what} for fault in faults]
    show(rows, as_json, f"{checked} artefacts checked, {len(rows)} faults")
    if faults:
        raise StoreError(
            f"expected a whole run, got {len(faults)} faults as listed; run `lowland run`, and where a file is "
            "damaged, delete its manifest (.json) before"
        )
