"""Tables of evaluation that are no part of a run: the page shows those that there are. Light: the Snakefile asks."""

from __future__ import annotations

from pipeline.storage.artefact import manifest_path, read_manifest
from pipeline.storage.layout import Layout

ASKED = (
    "lds-half", "lds-most", "retraining-removal", "retraining-cleansing", "replay", "memorised", "retraining-memorised",
    "stability", "against",
)  # fmt: skip
"""Those that `lowland evaluate` makes where it is asked to."""


def made(layout: Layout) -> list[str]:
    """Name and digest of those that there are: what the page depends on beside its inputs."""
    paths = [layout.evaluation(table) for table in ASKED]
    return [f"{path.stem} {read_manifest(path).digest}" for path in paths if manifest_path(path).is_file()]
