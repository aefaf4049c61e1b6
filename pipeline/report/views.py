"""What the template prints, worked out from what came in: ratios, headings, tables by class, plots.

The template itself only loops and prints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report import figures
from pipeline.report.data import (
    Bars,
    Confusion,
    Evaluation,
    Flattening,
    Hit,
    QueryAnswer,
    Report,
    ScoreKind,
    Scores,
    Sharpness,
)
from pipeline.report.printed import setting

MATRIX = 16  # classes up to which given -> suggested is printed as a matrix, above it as the most frequent pairs
PAIRS = 20
BY_CLASS = 20  # classes in the table of scores by class


@dataclass(frozen=True)
class Change:
    """One measure of sharpness at every checkpoint, and how many times smaller it is at the last than at the first."""

    name: str
    values: Sequence[tuple[float | None, float | None]]  # (value, its error)
    ratio: float | None


@dataclass(frozen=True)
class Pair:
    """`count` suspects with label `given` that should perhaps be `suggested`."""

    given: str
    suggested: str
    count: int


@dataclass(frozen=True)
class ClassScores:
    """The score among the rows of one given label."""

    given: str
    rows: int
    median: float
    high: float  # 95th percentile


@dataclass(frozen=True)
class Side:
    """One end of a ranking: a heading with its tone, and (hit, its share of the longest bar in per cent, tone)."""

    heading: str
    tone: str
    hits: Sequence[tuple[Hit, int | None, str]]


def labels_of_suspects(report: Report) -> list[str]:
    """The given labels among the suspects, once each, in alphabetical order."""
    return sorted({s.given for s in report.suspects if s.given is not None})


def score_kinds(queries: Sequence[QueryAnswer]) -> list[ScoreKind]:
    """The scores behind the answers, once each, in order of appearance: their conventions are said once."""
    return list(dict.fromkeys(q.kind for q in queries))


def sides(query: QueryAnswer) -> list[Side]:
    """Both ends of a ranking; a heading never claims help or harm that the signs deny."""
    hits = [*query.top, *query.bottom]
    longest = max((abs(h.score) for h in hits if math.isfinite(h.score)), default=0.0)
    words = _words(query)
    return [
        Side(heading, tone, [(h, _bar(h.score, longest), _tone(query.kind, h.score)) for h in end])
        for (heading, tone), end in zip(words, (query.top, query.bottom), strict=True)
        if end
    ]


def _words(query: QueryAnswer) -> list[tuple[str, str]]:
    if not query.kind.signed:
        return [("Matter most", "plain"), ("Matter least", "plain")]
    helped = any(h.score > 0 for h in query.top) or not query.top
    harmed = any(h.score < 0 for h in query.bottom) or not query.bottom
    return [
        ("Helped most", "help") if helped else ("Harmed least (none helped)", "harm"),
        ("Harmed most", "harm") if harmed else ("Helped least (none harmed)", "help"),
    ]


def _tone(kind: ScoreKind, score: float) -> str:
    """The colour of one score goes by its own sign, whichever end it is at."""
    if not kind.signed or not (score > 0 or score < 0):
        return "plain"
    return "help" if score > 0 else "harm"


def _bar(score: float, longest: float) -> int | None:
    return round(100 * abs(score) / longest) if longest > 0 and math.isfinite(score) else None


def changes(sharpness: Sequence[Sharpness]) -> list[Change]:
    """The measures of sharpness that were taken at all, each over the checkpoints."""
    measures: list[tuple[str, list[tuple[float | None, float | None]]]] = [
        ("Loss rise in the SAM ball (nats)", [(s.sam_rise, None) for s in sharpness]),
        ("Loss rise under filter-wise noise (nats)", [(s.noise_rise, s.noise_error) for s in sharpness]),
        ("Largest Hessian eigenvalue", [(s.eigenvalue, s.eigenvalue_error) for s in sharpness]),
    ]
    return [Change(n, v, _ratio(v)) for n, v in measures if any(value is not None for value, _ in v)]


def _ratio(values: Sequence[tuple[float | None, float | None]]) -> float | None:
    """First over last; None unless both are positive and finite (a rise may come out below zero by chance)."""
    first, last = values[0][0], values[-1][0]
    if len(values) < 2 or first is None or last is None or not (first > 0 and last > 0):
        return None
    ratio = first / last
    return ratio if math.isfinite(ratio) else None


def pairs(confusion: Confusion) -> list[Pair]:
    """The most frequent (given, suggested) pairs of different labels, at most `PAIRS`."""
    names, counts = confusion.classes, np.asarray(confusion.counts)
    found = [Pair(names[i], names[j], int(counts[i, j])) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    return sorted(found, key=lambda pair: -pair.count)[:PAIRS]


def by_class(scores: Scores) -> list[ClassScores]:
    """Score by given label, highest 95th percentile first, at most `BY_CLASS` labels; non-finite scores left out."""
    if scores.given is None:
        return []
    values, given = np.asarray(scores.values, np.float64), np.asarray(scores.given, dtype=object)
    keep = np.isfinite(values)
    values, given = values[keep], given[keep]
    rows = [(name, values[given == name]) for name in dict.fromkeys(given.tolist())]
    found = [ClassScores(str(n), len(v), float(np.median(v)), float(np.percentile(v, 95))) for n, v in rows]
    return sorted(found, key=lambda c: (-c.high, c.given))[:BY_CLASS]


def history_plot(flattening: Flattening) -> figures.Plot | None:
    """Training loss on the clean rows."""
    series = [("training loss", flattening.history)]
    return figures.curves("history", series, "Training loss on the clean rows over the steps of flattening")


def candidates_plot(flattening: Flattening) -> figures.Plot | None:
    """Held-out loss of each strength that was tried."""
    name = flattening.strength_name
    series = [
        (f"{name} {setting(c.strength)}{' (chosen)' if c.chosen else ''}", c.curve) for c in flattening.candidates
    ]
    return figures.curves("candidates", series, "Held-out loss over the steps, one line for each strength tried")


def spectrum_plot(report: Report) -> figures.Plot | None:
    """Eigenvalues of each curvature matrix."""
    return figures.spectrum("spectrum", report.curvatures, "Eigenvalues of each curvature matrix in falling order")


def scores_plot(report: Report) -> figures.Plot | None:
    """How the harm score is distributed, and where the suspects begin."""
    if report.scores is None:
        return None
    finite = [s.score for s in report.suspects if math.isfinite(s.score)]
    description = "Histogram of the harm score over the training rows, counts on a logarithmic axis"
    return figures.distribution("scores", report.scores.values, min(finite, default=None), description)


def not_finite(scores: Scores | None) -> int:
    """How many rows have no finite score."""
    return 0 if scores is None else int((~np.isfinite(np.asarray(scores.values, np.float64))).sum())


def measures(evaluation: Evaluation) -> list[str]:
    """Names of the measures in an evaluation, in order of appearance."""
    return list(dict.fromkeys(name for row in evaluation.rows for name in row.values))


def evaluation_plot(evaluation: Evaluation, number: int) -> figures.Plot | None:
    """The chart of an evaluation; `number` makes its name unique on the page."""
    chart, name = evaluation.chart, f"evaluation-{number}"
    if chart is None:
        return None
    description = f"{chart.title}: {chart.caption}"
    return (
        figures.bars(name, chart, description) if isinstance(chart, Bars) else figures.lines(name, chart, description)
    )
