"""Opening what retraining left: the members of a set, complete and judged on the rows that stand in the plan. No torch.

Letters: t members, N train rows, n rows of a split, R members of one action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import Config
from pipeline.errors import DataError, StoreError
from pipeline.retrainings import Member, members
from pipeline.shards import Plan
from pipeline.storage.arrays import Arrays
from pipeline.storage.artefact import Manifest
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays

Array = np.ndarray[Any, Any]

RESPONSES = {"loss": ("minus the loss", -1), "margin": ("margin", 1)}
"""Output of a member: what its response is called, and the sign that makes larger better."""


@dataclass(frozen=True)
class Retrained:
    """The members of a set, in the order of their names in the configuration."""

    members: tuple[Member, ...]
    manifests: tuple[Manifest, ...]
    arrays: tuple[Arrays, ...]

    def digests(self) -> list[str]:
        """What the members are."""
        return [manifest.digest for manifest in self.manifests]

    def read(self, name: str) -> Array:
        """One array of all members, [t, n]."""
        return np.stack([arrays.read(name) for arrays in self.arrays])

    def actions(self) -> dict[str, list[int]]:
        """Each action's members, as positions."""
        found: dict[str, list[int]] = {}
        for i, member in enumerate(self.members):
            found.setdefault(member.action, []).append(i)
        return found

    def responses(self) -> list[str]:
        """Which responses the members have: the margin needs labels."""
        return [name for name in RESPONSES if f"query_{name}" in self.arrays[0] and self._known(f"query_{name}")]

    def correct(self, split: str) -> Array:
        """Whether the members are right on the rows of a split, [t, n] of 0 and 1.

        Raises:
            DataError: the task is no classification, or its rows have no labels.
        """
        name = f"{split}_correct"
        values = self.read(name) if name in self.arrays[0] else np.full((1, 1), -1)
        if (values < 0).any():
            raise DataError(
                f"expected a classification whose {split} rows are (inputs..., label), got rows without a class to be "
                "right about; write `logits` and labelled rows"
            )
        return values

    def _known(self, name: str) -> bool:
        return bool(np.isfinite(self.arrays[0].read(name)).all())


def open_retrained(layout: Layout, plan: Plan, config: Config, set_name: str) -> Retrained:
    """All members of a set.

    Raises:
        StoreError: one is missing or damaged, or judged on other rows.
    """
    asked = members(config.retrain, set_name)
    found = [open_arrays(layout.retrained(set_name, member.name), "member") for member in asked]
    content = {split: part.content for split, part in plan.splits.items()}
    for member, (manifest, _) in zip(asked, found, strict=True):
        if manifest.identity["content"] != content:
            path = layout.retrained(set_name, member.name)
            raise StoreError(f"expected {path} judged on the rows of the plan, got other rows; run `lowland evaluate`")
    return Retrained(tuple(asked), tuple(each[0] for each in found), tuple(each[1] for each in found))
