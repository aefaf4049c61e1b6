"""How rows and queries stand in an index: as they are, at unit length, or half-whitened. Needs no torch.

Preconditioned queries u = H^-1 g do not look like rows, which is hard on approximate indexes. In rows H^-1/2 g_row and
queries H^1/2 u they are alike, with the same inner products u^T g_row: for any H. So an index keeps the H that it was
built with, and a later curvature, as of appended rows, asks it as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.core.influence import unit
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import StoreError
from pipeline.schema import IndexSection
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import arrays_of, open_preconditioner, preconditioner_in
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

Array = np.ndarray[Any, Any]

FLAT_NUMBERS = 25_000 * 1024
"""Rows x K up to which an index is flat: 100 MB, which a core reads within 20 ms; from benchmarks/results/index.md."""
APPROXIMATE = ("RaBitQfs2", "SQ8", "Flat")
"""What is tried beyond: kinds with recall@10 >= .95 by rising latency in that table, and Flat, which is exact."""
LEAST_RECALL = 0.95
"""recall@10, measured on the run's own rows and queries, below which `auto` takes the next kind."""


@dataclass(frozen=True)
class Space:
    """Rows and queries on their way into an index.

    Attributes:
        metric: inner or cosine.
        whitening: of half-whitened rows.
        digest: of the whitening's artefact.
    """

    metric: str
    whitening: Preconditioner | None = None
    digest: str | None = None

    def rows(self, codes: Array) -> Array:
        """Codes [n, K] as the index has them, float32."""
        if self.metric == "cosine":
            return unit(codes).astype(np.float32)
        return codes if self.whitening is None else codes @ self._half

    def probes(self, queries: Array) -> Array:
        """Queries [q, K] as they ask the index. Only their direction matters; at unit length it cannot overflow."""
        directions = unit(queries)
        return directions if self.whitening is None else unit(self.whitening.root(directions))

    @cached_property
    def _half(self) -> Array:
        """H^-1/2, [K, K]: in float32, for an index only decides who is considered."""
        assert self.whitening is not None
        if self.whitening.spectrum.vectors is None:
            dimension = len(self.whitening.spectrum.values)
        else:
            dimension = len(self.whitening.spectrum.vectors)
        return self.whitening.half(np.eye(dimension)).astype(np.float32)


def kinds(section: IndexSection, rows: int, dimension: int) -> tuple[str, ...]:
    """The factory strings that come into question for so many rows of K numbers, in the order of preference."""
    if section.factory != "auto":
        return (section.factory,)
    return ("Flat",) if rows * dimension <= FLAT_NUMBERS else APPROXIMATE


def is_whitened(section: IndexSection, metric: str, factory: str) -> bool:
    """Whether an index of that kind holds half-whitened rows."""
    wanted = factory != "Flat" if section.rows == "auto" else section.rows == "whitened"
    return wanted and metric == "inner"


def fit_space(job: Job, checkpoint: str, metric: str, whitened: bool) -> Space:
    """The space of a new index; its whitening, from the curvature as it is, is kept beside the index."""
    if not whitened:
        return Space(metric)
    fitted, curvature = open_preconditioner(job.layout, checkpoint, CURVATURE_SPLIT[checkpoint])
    path = job.layout.whitening(checkpoint)
    identity = {"curvature": curvature.digest, "rows": fitted.spectrum.rows}
    with job.writing(path, "whitening", identity) as (temporary, _):
        write_arrays(temporary, arrays_of(fitted))
    return Space(metric, fitted, read_manifest(path).digest)


def open_space(layout: Layout, checkpoint: str, identity: dict[str, Any]) -> Space | None:
    """The space of an index with this identity; None where the whitening that stands there is not the index's own."""
    digest = identity.get("whitening")
    if digest is None:
        return Space(identity["metric"])
    try:
        manifest, arrays = open_arrays(layout.whitening(checkpoint), "whitening")
    except StoreError:
        return None
    if manifest.digest != digest:
        return None
    return Space(identity["metric"], preconditioner_in(arrays, manifest.identity["rows"]), digest)
