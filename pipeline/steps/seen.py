"""Which train rows the checkpoints have seen: those that were there when `trained` was made. Needs no torch."""

from __future__ import annotations

import numpy as np

from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays


def unseen_share(layout: Layout) -> float:
    """Share of the train rows that were not there when the checkpoint `trained` was made."""
    _, before = open_arrays(layout.seen, "seen")
    _, hashes = open_arrays(layout.hashes, "rows")
    seen = {bytes(row) for row in before.read("train")}
    now = hashes.read("train")
    return float(np.mean([bytes(row) not in seen for row in now])) if len(now) else 0.0
