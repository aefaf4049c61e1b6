"""Which train rows a retraining has, and under which labels: from the name of its member to positions.

Random subsets follow from (seed, set, number, row id) alone; the id of a row is its position and content. What is
done to suspects follows from the scores, what is done to truly wrong rows from the true labels, which reach
evaluation only.
Rows that the user has retired take no part. Letters: N train rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.core.influence import likeliest
from pipeline.errors import ConfigError, DataError
from pipeline.methods import RANKED
from pipeline.provenance import digest_bytes
from pipeline.retrainings import PLAIN, Member, check_single
from pipeline.steps.job import Job
from pipeline.steps.predictions import said_at
from pipeline.steps.tasks import derive
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.storage.tables import read_table
from pipeline.tasks.base import Task

Array = np.ndarray[Any, Any]

FALLBACK_SHARE = 0.1
"""Share of the rows that is removed where it is `auto` and the truth is not known."""

LABELS = {"wrong": "otherwise", "loss_flat": "predicted", "norm_flat": "predicted"}
"""Rankings whose rows get another label than S suggests, and its column: `wrong` says what a row is if its label is
wrong, and a plain control knows no more than the prediction at its checkpoint, so that it owes nothing to FVM. That of
`loss_trained` is no column: the model at `trained` says it."""


@dataclass(frozen=True)
class Selection:
    """Positions of the rows that stay, ascending [n], and new labels by position."""

    kept: Array
    labels: dict[int, int] = field(default_factory=dict)


class Selector:
    """Settles what each member of a set is trained on.

    Attributes:
        job: of the stage `retrain`.
        task: the run's.
        set_name: the set.
    """

    def __init__(self, job: Job, task: Task, set_name: str) -> None:
        """See the class."""
        self.job, self.task, self.set_name = job, task, set_name

    def of(self, member: Member) -> Selection:
        """What `member` is trained on."""
        if member.action == PLAIN:
            return Selection(self.rows)
        if self.set_name in ("half", "most"):
            return Selection(self._random(member.action, round(self._fraction * len(self.rows))))
        if self.set_name == "single":
            return Selection(np.setdiff1d(self.rows, [self.single(member.action)]))
        name, _, act = member.action.rpartition(".")
        return self._act(name, act, member.seed)

    def single(self, action: str) -> int:
        """The row that a member of the set `single` leaves out."""
        check_single(self.job.config.retrain, len(self.rows))
        return int(self._drawn("single")[int(action.removeprefix("row"))])

    @cached_property
    def rows(self) -> Array:
        """Positions of the rows that take part, ascending."""
        plan = self.job.plan()
        return np.setdiff1d(np.arange(plan.splits["train"].rows), np.asarray(plan.retired, np.int64))

    @property
    def _fraction(self) -> float:
        section = self.job.config.retrain
        return section.lds_fraction if self.set_name == "half" else section.memorisation_fraction

    @cached_property
    def _ids(self) -> list[bytes]:
        """Position and content of each row that takes part; equal rows are drawn apart by their position."""
        _, hashes = open_arrays(self.job.layout.hashes, "rows")
        content = hashes.read("train")
        return [int(i).to_bytes(8, "little") + bytes(content[i]) for i in self.rows]

    def _drawn(self, purpose: str) -> Array:
        """The rows in an order of their own for a purpose, of a seeded hash of their ids: new rows move none."""
        seed = str(derive(self.job.config.seed, f"retrain {self.set_name} {purpose}")).encode()
        return self.rows[sorted(range(len(self.rows)), key=lambda i: digest_bytes(seed, self._ids[i]))]

    def _random(self, purpose: str, count: int) -> Array:
        """`count` rows drawn for a purpose, ascending."""
        return np.sort(self._drawn(purpose)[:count])

    def _act(self, name: str, act: str, seed: int) -> Selection:
        count = self._count(name, act)
        if name == "random":
            return Selection(np.setdiff1d(self.rows, self._random(f"random {seed}", count)))
        if act == "pruned":
            return Selection(np.sort(self._ranking(name)[: len(self.rows) - count]))
        chosen = self._ranking(name)[:count]
        if act == "removed":
            return Selection(np.setdiff1d(self.rows, chosen))
        labels = self._labels(name)
        return Selection(self.rows, {int(i): int(labels[i]) for i in chosen if labels[i] >= 0})

    def _count(self, name: str, act: str) -> int:
        """How many rows are removed, relabelled or pruned."""
        section, total = self.job.config.retrain, len(self.rows)
        if act == "pruned":
            return round(section.pruned_share * total)
        if self.set_name == "memorised":
            return int((self._memorisation >= section.memorised_threshold).sum())
        if section.removed_share != "auto":
            return round(section.removed_share * total)
        return len(self._wrong) if self.task.true_labels is not None else round(FALLBACK_SHARE * total)

    @cached_property
    def _wrong(self) -> Array:
        """Positions of the rows whose given label is truly wrong."""
        if self.task.true_labels is None or self.task.labels is None:
            raise DataError("expected a task with labels and true_labels for the oracle, got one without; add them")
        truth, given = np.asarray(self.task.true_labels), np.asarray(self.task.labels)
        return self.rows[((truth >= 0) & (truth != given))[self.rows]]

    @cached_property
    def _memorisation(self) -> Array:
        """Memorisation of the rows that take part."""
        table = read_table(self.job.layout.evaluation("memorisation"), ["memorisation"])
        return np.nan_to_num(np.asarray(table["memorisation"], float)[self.rows], nan=-np.inf)

    def _ranking(self, name: str) -> Array:
        """Positions, most suspicious, most memorised or truly wrong first; equal ones in order of position."""
        if name == "oracle":
            return np.concatenate([self._wrong, np.setdiff1d(self.rows, self._wrong)])[: len(self._wrong)]
        if name == "memorised":
            return self.rows[np.argsort(-self._memorisation, kind="stable")]
        values = RANKED[name].suspicious * self._score(name)[self.rows]
        return self.rows[np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")]

    def _score(self, name: str) -> Array:
        """A column of the score table, [N].

        Raises:
            ConfigError: the run has no such column.
        """
        made = read_manifest(self.job.layout.scores).identity
        columns = [*(["wrong"] if made["posterior"] else []), *made["estimators"]]
        if name not in columns:
            raise ConfigError(
                f"expected retrain.rankings out of the scores of the run, {', '.join(columns)}, got {name!r}; take it "
                "out, or add it to scores.estimators"
            )
        return np.asarray(read_table(self.job.layout.scores, [name])[name], float)

    def _labels(self, name: str) -> Array:
        """Labels that relabelling would give, [N]; -1 where unknown."""
        if name == "oracle":
            return np.asarray(self.task.true_labels)
        if not self.job.plan().labelled:
            raise DataError("expected a classification with labels to retrain relabelled rows, got none; add labels")
        if name == "loss_trained":
            return self._predicted_at_trained
        column = LABELS.get(name, "suggested")
        return np.asarray(read_table(self.job.layout.scores, [column])[column])

    @cached_property
    def _predicted_at_trained(self) -> Array:
        """What the model that was trained on all rows predicts of each, [N]; -1 where that is no number."""
        return likeliest(said_at(self.task, self.job.layout, "trained"))
