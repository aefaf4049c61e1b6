"""One label and one truth for each sentence from the ratings of a crowd.

A rating's class is its sign: 0 negative, 1 neutral, 2 positive. The truth is the plurality of the raters who did not
give the label; rows whose plurality is a tie have none. So truth is an opinion of many: where agreement is low, a row
is ambiguous rather than wrong, and results belong beside those at agreement >= .6.

Labels: "one rater": one at random. "worst of three": of three at random the first who differs from the truth, if any
(it uses the truth to pick, as "worst" does in CIFAR-10N). "plurality": the truth itself. "critic": not a rater's but
the critic's, of film reviews, 0 negative or 1 positive; the truth is the sign of the mean of all ratings
(`against_critics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

CRITIC = "critic"
LABELLINGS = ("one rater", "worst of three", "plurality", CRITIC)
LEFT_OUT = {"one rater": 1, "worst of three": 3, "plurality": 0}
TIE = -1


@dataclass(frozen=True)
class Opinions:
    """What a crowd said.

    Attributes:
        label: [N] given labels, 0 to 2.
        truth: [N] plurality of the other raters, or TIE.
        agreement: [N] share of the other raters that the plurality has, 0 to 1.
    """

    label: Array
    truth: Array
    agreement: Array


def opinions(ratings: Sequence[Array], labelling: str, draw: np.random.Generator) -> Opinions:
    """Labels and truth.

    Args:
        ratings: N arrays of at least four ratings, -4 to 4.
        labelling: one of LABELLINGS.
        draw: picks the raters.
    """
    rows = [_row(np.sign(rating) + 1, LEFT_OUT[labelling], draw) for rating in ratings]
    label, truth, agreement = zip(*rows, strict=True) if rows else ((), (), ())
    return Opinions(np.array(label, dtype=np.int64), np.array(truth, dtype=np.int64), np.array(agreement, dtype=float))


def against_critics(ratings: Sequence[Array], label: Array) -> Opinions:
    """What critics said, judged by the crowd: two classes, 0 negative and 1 positive.

    Args:
        ratings: N arrays of ratings, -4 to 4.
        label: [N] of the critics.
    """
    means = np.array([rating.mean() for rating in ratings])
    truth = np.where(means == 0, TIE, (means > 0).astype(np.int64))
    agreement = [float((np.sign(rating) == np.sign(mean)).mean()) for rating, mean in zip(ratings, means, strict=True)]
    return Opinions(np.asarray(label, dtype=np.int64), truth, np.array(agreement, dtype=float))


def _row(classes: Array, left_out: int, draw: np.random.Generator) -> tuple[int, int, float]:
    """Label, truth and agreement of one row; `classes` [R]."""
    order = draw.permutation(len(classes))
    picked, others = classes[order[:left_out]], classes[order[left_out:]]
    truth, agreement = plurality(others)
    wrong = [int(label) for label in picked if label != truth]
    if len(picked) == 1:
        return int(picked[0]), truth, agreement
    return wrong[0] if wrong else truth, truth, agreement


def plurality(classes: Array) -> tuple[int, float]:
    """The most frequent class of [R], or TIE, and its share."""
    counts = np.bincount(classes, minlength=3)
    most = int(counts.max())
    return (int(counts.argmax()) if (counts == most).sum() == 1 else TIE), most / len(classes)
