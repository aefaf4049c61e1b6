"""What the report page needs: the contract between the report step, which collects, and `render`, which prints.

Labels are names, ready to print; the caller turns class numbers into names. A value that was not measured is None, an
absent part is None or empty, and the page leaves it out. Texts and names may hold anything: they are escaped.

Letters: N training rows, M validation rows, Q queries, C classes, P parameters, K compressed size, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.report.background import (
    Bar,
    Bars,
    Candidate,
    Confusion,
    Curvature,
    Evaluation,
    EvaluationRow,
    FlaggedRow,
    Flattening,
    Index,
    Lines,
    Made,
    Scores,
    Series,
    Sharpness,
)

if TYPE_CHECKING:  # base imports torch, which the page does not need
    from pipeline.tasks.base import Shown

__all__ = [
    "HARM",
    "INFLUENCE",
    "WRONG",
    "Bar",
    "Bars",
    "Candidate",
    "Confusion",
    "Curvature",
    "Evaluation",
    "EvaluationRow",
    "FlaggedRow",
    "Flattening",
    "Hit",
    "Index",
    "Lines",
    "Made",
    "QueryAnswer",
    "Report",
    "ScoreKind",
    "Scores",
    "Series",
    "Sharpness",
    "Sizes",
    "Suspect",
]


@dataclass(frozen=True)
class Sizes:
    """How large the run was.

    Attributes:
        train: N.
        validation: M.
        queries: Q.
        parameters: P, those that gradients are taken of.
        kept: K, numbers kept a row.
        codec: how they are stored, for example "float32".
        checkpoints: names, in the order of the workflow.
        classes: C, None where the task is no classification.
    """

    train: int
    validation: int
    queries: int
    parameters: int
    kept: int
    codec: str
    checkpoints: Sequence[str]
    classes: int | None = None


@dataclass(frozen=True)
class ScoreKind:
    """What a score is called and how it reads.

    Attributes:
        name: for example "S".
        checkpoint: where it was asked.
        meaning: the sign convention in words, to follow "is".
        signed: whether positive means helped; an unsigned score is larger where a row matters more.
    """

    name: str
    checkpoint: str
    meaning: str
    signed: bool


HARM = ScoreKind("S", "flat", "unsigned; a larger score means that the row harms the model more", signed=False)
WRONG = ScoreKind(
    "-ln posterior", "flat", "unsigned; a larger score: the given label is more likely wrong", signed=False
)
INFLUENCE = ScoreKind(
    "influence",
    "trained",
    "positive where training on the row lowered the query's loss, negative where it raised it",
    True,
)


@dataclass(frozen=True)
class Suspect:
    """A training row that seems to harm the model.

    Attributes:
        rank: 1 is the most harmful.
        row: its position in the training rows.
        score: the harm score.
        given: the label it came with; None where it has none.
        suggested: the label it should perhaps have; None where labels are no classes.
        otherwise: the likeliest label besides the given one.
        margin: how much better the suggested label scores than the given one, in units of the score.
        loss: at the checkpoint of the score, in nats; the simple control.
        percentile: share of the training rows with a lower score, 0 to 100.
        mu: f-INE of the row on the validation rows; negative where it harms.
        stable: share of the training rows with less loss at a flat minimum of another training.
        shown: how people see the row.
    """

    rank: int
    row: int
    score: float
    given: str | None = None
    suggested: str | None = None
    otherwise: str | None = None
    margin: float | None = None
    loss: float | None = None
    mu: float | None = None
    stable: float | None = None
    percentile: float | None = None
    shown: Shown | None = None


@dataclass(frozen=True)
class Hit:
    """A training row in the answer to a query: its rank from 1, row number, score and given label."""

    rank: int
    row: int
    score: float
    label: str | None = None
    shown: Shown | None = None


@dataclass(frozen=True)
class QueryAnswer:
    """The training rows that shaped one prediction most.

    Attributes:
        row: position in the query rows.
        top: the largest scores, largest first.
        bottom: the smallest scores, smallest first.
        given: the query's own label.
        prediction: what the model predicts.
        kind: the score behind the ranking.
        shown: how people see the query.
    """

    row: int
    top: Sequence[Hit]
    bottom: Sequence[Hit] = ()
    given: str | None = None
    prediction: str | None = None
    kind: ScoreKind = INFLUENCE
    shown: Shown | None = None


@dataclass(frozen=True)
class Report:
    """All that the page prints.

    Attributes:
        title: of the page, usually what the task is called.
        run: name of the run.
        sizes: how large it was.
        harm: the score behind the suspects.
        suspects: most harmful first.
        queries: answers, in the order of the query rows.
        flattening: how the flat minimum was found.
        sharpness: before first, after last.
        curvatures: matrices with spectra.
        indexes: FAISS indexes.
        scores: the harm score of all rows.
        confusion: given against suggested label among the suspects.
        evaluations: only where someone asked for them.
        flagged: rows that are not finite.
        unseen: share of the training rows that the checkpoints have not seen, 0 to 1.
        warnings: sentences for the top of the page.
        provenance: artefacts in the order of the workflow.
        config: the resolved configuration as YAML.
        version: of Lowland.
    """

    title: str
    run: str
    sizes: Sizes
    harm: ScoreKind = HARM
    suspects: Sequence[Suspect] = ()
    queries: Sequence[QueryAnswer] = ()
    flattening: Flattening | None = None
    sharpness: Sequence[Sharpness] = ()
    curvatures: Sequence[Curvature] = ()
    indexes: Sequence[Index] = ()
    scores: Scores | None = None
    confusion: Confusion | None = None
    evaluations: Sequence[Evaluation] = ()
    flagged: Sequence[FlaggedRow] = ()
    unseen: float | None = None
    warnings: Sequence[str] = ()
    provenance: Sequence[Made] = ()
    config: str = ""
    version: str = ""
