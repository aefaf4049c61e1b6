"""What methods are called in tables: at a plain minimum of the validation loss FVM is VM (Ye et al. 2025). No torch."""

from __future__ import annotations

from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout


def named(layout: Layout, title: str) -> str:
    """A title as the tables of a run print it: VM in place of FVM where `flatten.method` is plain.

    Raises:
        StoreError: the title says FVM, and the run has no flat minimum.
    """
    if "FVM" not in title:
        return title
    method = read_manifest(layout.checkpoint("flat")).identity["flatten"]["method"]
    return title.replace("FVM", "VM") if method == "plain" else title
