"""What a former score table says of rows whose codes are as they were, under a curvature that is as it was.

S, W, and S under every label follow from a row's codes at flat and the curvature of the validation rows alone. Rows
that are appended, retired or relabelled change neither for all others: their values are taken over from the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.errors import StoreError
from pipeline.methods import METHODS
from pipeline.steps.code import stands_for
from pipeline.steps.job import Job
from pipeline.storage.artefact import kept_manifest, read_manifest
from pipeline.storage.tables import read_arrays

Array = np.ndarray[Any, Any]
Columns = dict[str, Array]

AT = "flat"
FOLLOWING = tuple(
    name for name, method in METHODS.items() if method.rows and method.at[0] == AT and method.reads == ("curvature",)
)
"""Scores of rows that follow from their codes and the curvature at flat alone."""


@dataclass(frozen=True)
class Former:
    """The former table of a job, if what it says was made as it would be now."""

    job: Job
    valid: bool

    @classmethod
    def of(cls, job: Job) -> Former:
        """The table, valid if it was made under the present curvature of the validation rows, by the present code."""
        manifest = kept_manifest(job.layout.scores, "scores")
        curvature = read_manifest(job.layout.curvature(AT, CURVATURE_SPLIT[AT])).digest
        if manifest is None or curvature not in manifest.identity["curvature"]:
            return cls(job, False)
        return cls(job, stands_for(job.stage, manifest.record["code"], job.config, job.layout.run))

    def of_rows(self, key: str, hashes: Array, columns: Sequence[str]) -> tuple[Array, Columns]:
        """Which rows [N] it knows, by the hashes of their codes in the column `key`, and what it says of these.

        A row whose values are no numbers, as of a retired one, is not known. None is where a column is missing.
        """
        nothing = np.zeros(len(hashes), bool)
        if not self.valid:
            return nothing, {}
        try:
            table = read_arrays(self.job.layout.scores, [key, *columns])
        except StoreError:  # other estimators were asked for, or the task knew no labels
            return nothing, {}
        numbers = [np.isfinite(table[name]).reshape(len(table[key]), -1).all(1) for name in columns]
        known = np.nonzero(np.logical_and.reduce(numbers))[0]
        if not len(known):
            return nothing, {}
        order = known[np.argsort(table[key][known], kind="stable")]
        at = np.searchsorted(table[key][order], hashes).clip(max=len(order) - 1)
        same = table[key][order[at]] == hashes
        return same, {name: table[name][order[at[same]]] for name in columns}
