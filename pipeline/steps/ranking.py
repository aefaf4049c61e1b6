"""The suspects: rows of the score table in order, with names of labels. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.config import read_yaml
from pipeline.core.influence import order
from pipeline.errors import DataError
from pipeline.methods import RANKED
from pipeline.shards import Plan
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.tables import read_table

COLUMN = {
    "wrong": "-ln of the posterior of the given label",
    "s": "S (FVM, set level) at flat",
    "w": "W (FVM) at flat",
    "loss_flat": "loss at flat",
    "loss_trained": "loss at trained",
    "self_influence": "self-influence at trained",
    "gan_itd": "what training on the row cost the metric, through the steps (minus gan_itd)",
    "gan_aid": "what training on the row cost the metric, at rest (minus gan_aid)",
    "margin": "margin S(given) - S(suggested) at flat",
}
"""Columns of scores.parquet by which suspects can be ranked, larger being more suspicious."""

STABILITY = {"fine": "mu", "lasting": "stable"}
"""Columns of scores.parquet that say whether a suspect outlasts another training, and their names beside it."""

FROM_LABELS = ("wrong", "margin")
"""Those that there are where the task gives labels."""


def usual(score: str, plan: Plan) -> str:
    """The column that `suspects.score` of the configuration stands for; auto: `wrong`, or S without labels."""
    return score if score != "auto" else "wrong" if plan.labelled else "s"


def harm(column: str, values: list[Any]) -> np.ndarray[Any, Any]:
    """A column of the score table such that larger is more suspicious: minus the signed ones, [N]."""
    turned = RANKED[column].suspicious if column in RANKED else 1
    return turned * np.array([np.nan if value is None else value for value in values], float)


def column_of(layout: Layout, plan: Plan) -> str:
    """The column by which a run ranks its suspects where nobody asks for another."""
    section = read_yaml(layout.config).get("suspects") or {}  # runs of older versions have none
    return usual(section.get("score", "auto"), plan)


@dataclass(frozen=True)
class Ranked:
    """A suspect; labels are names, None where unknown; `stability` has the columns of `STABILITY` that the run has."""

    rank: int
    row: int
    score: float
    given: str | None
    suggested: str | None
    margin: float | None
    otherwise: str | None
    loss: float
    stability: dict[str, float]

    def plain(self) -> dict[str, Any]:
        """As a row of a table."""
        return {name: value for name, value in self.__dict__.items() if name != "stability"} | self.stability


def read_suspects(layout: Layout, plan: Plan, column: str, top: int) -> list[Ranked]:
    """The `top` rows with the largest score; rows without a finite one and retired ones are left out.

    Raises:
        DataError: more rows are asked for than can be ranked, or a score that needs labels where there are none.
        StoreError: there are no scores.
    """
    made = open_artefact(layout.scores, "scores").identity["estimators"]
    if column in FROM_LABELS and not plan.labelled:
        raise DataError(
            f"expected --score {column} among the scores of the run, got none: the task gives no labels; choose another"
        )
    columns = ["given", "loss_flat", column, *(["suggested", "margin", "otherwise"] if plan.labelled else [])]
    columns += [name for name in STABILITY if name in made]
    table = read_table(layout.scores, list(dict.fromkeys(columns)))
    scores = harm(column, table[column])
    scores[list(plan.retired)] = np.nan  # at once, though the table may have been made before
    known = np.nonzero(np.isfinite(scores))[0]
    if top > len(known):
        raise DataError(f"expected --top from 1 to {len(known)}, the rows that have a score, got {top}; ask for fewer")
    best = known[order(scores[known], known)[:top]]
    return [_ranked(rank, int(row), float(scores[row]), table, plan) for rank, row in enumerate(best, 1)]


def _ranked(rank: int, row: int, score: float, table: dict[str, list[Any]], plan: Plan) -> Ranked:
    suggested, otherwise = (table[name][row] if plan.labelled else -1 for name in ("suggested", "otherwise"))
    return Ranked(
        rank=rank,
        row=row,
        score=score,
        given=plan.classes[table["given"][row]] if plan.labelled else None,
        suggested=plan.classes[suggested] if suggested >= 0 else None,
        margin=float(table["margin"][row]) if suggested >= 0 else None,
        otherwise=plan.classes[otherwise] if otherwise >= 0 else None,
        loss=float(table["loss_flat"][row]),
        stability={shown: float(table[name][row]) for name, shown in STABILITY.items() if name in table},
    )
