"""The parts of a report that say how far its answers can be trusted: minimum, curvature, indexes, evaluation, origin.

Conventions and letters as in `pipeline.report.data`, which hands these on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Curve = Sequence[tuple[float, float]]  # (step, loss in nats), in the order of the steps


@dataclass(frozen=True)
class Candidate:
    """A strength that was tried on the internal split: its final held-out loss in nats and the way there."""

    strength: float
    loss: float
    curve: Curve = ()
    chosen: bool = False


@dataclass(frozen=True)
class Flattening:
    """How the flat validation minimum was found.

    Attributes:
        method: for example "SAM".
        strength: rho or gamma.
        strength_name: "rho" or "gamma".
        chosen: how the strength was chosen, in words.
        candidates: the strengths that were tried.
        history: training loss on the clean rows.
        verdict: whether it converged, in words.
    """

    method: str
    strength: float | None
    strength_name: str = "rho"
    chosen: str = ""
    candidates: Sequence[Candidate] = ()
    history: Curve = ()
    verdict: str = ""


@dataclass(frozen=True)
class Sharpness:
    """How sharp the validation loss is at one checkpoint; smaller is flatter.

    Attributes:
        checkpoint: its name.
        sam_rise: rise of the loss in the SAM ball, nats.
        noise_rise: mean rise under filter-wise noise, nats.
        noise_error: its standard error.
        eigenvalue: the largest of the Hessian.
        eigenvalue_error: its error estimate.
    """

    checkpoint: str
    sam_rise: float | None = None
    noise_rise: float | None = None
    noise_error: float | None = None
    eigenvalue: float | None = None
    eigenvalue_error: float | None = None


@dataclass(frozen=True)
class Curvature:
    """One curvature matrix in compressed space.

    Attributes:
        name: for example "flat-validation".
        kind: for example "empirical Fisher".
        rows: how many rows are behind it.
        rank: R.
        damping: relative.
        absolute: lambda, the damping in units of the eigenvalues.
        eigenvalues: [R] or fewer, any order.
    """

    name: str
    kind: str
    rows: int
    rank: int
    damping: float
    absolute: float
    eigenvalues: np.ndarray


@dataclass(frozen=True)
class Index:
    """One FAISS index and the share of the exact 10 best that it finds (recall@10, 0 to 1)."""

    name: str
    metric: str
    factory: str
    rows: int
    recall: float | None = None


@dataclass(frozen=True)
class Scores:
    """The harm score of every training row.

    Attributes:
        values: [N].
        given: the given label of each row, [N], or None.
    """

    values: np.ndarray
    given: Sequence[str] | None = None


@dataclass(frozen=True)
class Confusion:
    """Suspects by given label (row of `counts`) and suggested label (column): names [C], counts [C, C]."""

    classes: Sequence[str]
    counts: np.ndarray


@dataclass(frozen=True)
class EvaluationRow:
    """One method judged against known labels.

    Attributes:
        method: its name.
        checkpoint: where it was asked.
        values: name of a measure and its value, for example {"AUC": .98}.
        control: whether it is a simple control that the others must beat.
        note: anything that a reader must know.
    """

    method: str
    checkpoint: str
    values: Mapping[str, float | None]
    control: bool = False
    note: str = ""


@dataclass(frozen=True)
class Bar:
    """A value with what it may as well be, from `low` to `high`; bars of one group have one colour."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""


@dataclass(frozen=True)
class Bars:
    """Bars, from top to bottom, on an axis called `unit`; `levels` are names and values of dotted lines across."""

    title: str
    caption: str
    bars: Sequence[Bar]
    unit: str
    levels: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Series:
    """Points [n, 2] of a line; that of a control is dashed."""

    label: str
    points: np.ndarray
    control: bool = False


@dataclass(frozen=True)
class Lines:
    """Lines over axes called `x` and `y`."""

    title: str
    caption: str
    series: Sequence[Series]
    x: str
    y: str


@dataclass(frozen=True)
class Evaluation:
    """Methods beside the simple controls.

    Attributes:
        rows: the methods.
        question: what they were asked, for example "Which labels are wrong?".
        truth: what they are judged by, in the plural, for example "true labels: planted noise, 20 %"; may be "".
        note: what a reader must know.
        chart: the same as a figure.
    """

    rows: Sequence[EvaluationRow]
    question: str = "Which labels are wrong?"
    truth: str = "known true labels"
    note: str = ""
    chart: Bars | Lines | None = None


@dataclass(frozen=True)
class FlaggedRow:
    """A row left out of curvature and index, and why."""

    split: str
    row: int
    reason: str


@dataclass(frozen=True)
class Made:
    """One artefact and what made it: seconds and bytes that it took, None where unknown."""

    artefact: str
    digest: str
    by: str = ""
    when: str = ""
    seconds: float | None = None
    bytes: int | None = None
