"""The strength of the flattening (rho, gamma), chosen on the clean validation rows alone, and a watch on convergence.

Each candidate descends on internal splits of the clean rows (`pipeline.core.holdout`) and is judged by its mean final
loss on the rows that its descent never saw, over all folds. Chosen is the greatest strength that is at most one
standard error, paired by row, behind the lowest mean: held-out loss sees the risk at the minimum but not its sharpness,
so among candidates that it cannot tell apart the flattest is taken. On digits this was compared with the lowest mean
itself and with the smallest strength within one standard error: all three find a large rho where the model has
memorised wrong labels and a small one where it has not; this one wavers least between seeds.

The curve of the held-out loss over the steps is kept, and a verdict in words says whether the descent has settled. The
noisy training labels, the true labels and the test rows have no part in any of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.core.holdout import held_out_curve, marked_steps, mean_and_error, splits, verdict
from pipeline.core.minimum import Divergence, Progress, Settings
from pipeline.core.rows import Rows
from pipeline.errors import ConfigError

FEWEST_ROWS = 40  # below these two, a held-out mean says nothing
FEWEST_HELD_OUT = 10
FALLBACK = {"sam": 0.2, "asam": 2.0, "lpf": 0.03}


@dataclass(frozen=True)
class Trial:
    """What one candidate did on the internal splits.

    Attributes:
        strength: the candidate.
        steps: where the held-out loss was measured, from 0 (the trained weights) to the last step; empty when diverged.
        losses: mean held-out loss over all folds at those steps, nats.
        behind: final mean held-out loss minus the lowest of all candidates, nats.
        behind_error: standard error of this difference, paired by row.
        failure: why it was discarded, or None.
    """

    strength: float
    steps: tuple[int, ...]
    losses: tuple[float, ...]
    behind: float
    behind_error: float
    failure: str | None


@dataclass(frozen=True)
class Choice:
    """A strength and why.

    Attributes:
        strength: what to descend with.
        reason: how it was found, in words.
        verdict: whether the descent settled, in words.
        trials: one a candidate; none if there were too few rows.
        held_out_rows: rows held out a fold.
        fit_rows: rows descended on a fold.
    """

    strength: float
    reason: str
    verdict: str
    trials: tuple[Trial, ...]
    held_out_rows: int
    fit_rows: int


@dataclass(frozen=True)
class ChoiceProgress:
    """Where a choice is.

    Attributes:
        run: 1 to `runs`.
        runs: candidates x folds.
        strength: the candidate that is being tried.
        descent: its progress.
    """

    run: int
    runs: int
    strength: float
    descent: Progress


def choose(
    make_model: Callable[[], nn.Module],
    loss: Loss,
    rows: Rows,
    settings: Settings,
    candidates: Sequence[float],
    folds: int,
    held_out: float,
) -> Generator[ChoiceProgress, None, Choice]:
    """Choose the strength among `candidates`; with a single one, only watch how it converges.

    The choice is the generator's return value: `choice = yield from choose(...)`, or `finished(choose(...), report)`.

    Args:
        make_model: a new model at the trained weights, each time it is called.
        loss: per-sample loss.
        rows: all clean validation rows.
        settings: how to descend; `strength` is replaced by each candidate.
        candidates: strengths to try; plain has none and is only watched.
        folds: internal splits, at least 1.
        held_out: share of the rows that a fold holds out, above 0 and below 1.

    Yields:
        One `ChoiceProgress` a step of any descent.

    Raises:
        ConfigError: no candidates, no folds or a share out of range.
        Divergence: every candidate diverged.
    """
    _check(candidates, folds, held_out)
    if settings.method == "plain":
        candidates = [0.0]  # it has no strength, so there is one descent to watch and nothing to choose
    parts = splits(len(rows), folds, held_out, settings.seed)
    held, fit = len(parts[0][1]), len(parts[0][0])
    if len(rows) < FEWEST_ROWS or held < FEWEST_HELD_OUT:
        return _fallback(settings, candidates, len(rows), held)
    curves: dict[float, Tensor | Divergence] = {}
    for number, strength in enumerate(candidates):
        trial, first = replace(settings, strength=strength), number * folds + 1
        curves[strength] = yield from _attempt(make_model, loss, rows, trial, parts, first, len(candidates) * folds)
    return _decide(curves, settings, held, fit)


Yielded = TypeVar("Yielded")
Returned = TypeVar("Returned")


def finished(run: Generator[Yielded, None, Returned], report: Callable[[Yielded], object] | None = None) -> Returned:
    """Drain a generator, show `report` what it yields, and hand back what it returns."""
    while True:
        try:
            item = next(run)
        except StopIteration as end:
            return end.value
        if report is not None:
            report(item)


def _attempt(
    make_model: Callable[[], nn.Module],
    loss: Loss,
    rows: Rows,
    settings: Settings,
    parts: Sequence[tuple[list[int], list[int]]],
    first: int,
    runs: int,
) -> Generator[ChoiceProgress, None, Tensor | Divergence]:
    """The held-out curves of one candidate over all folds, [POINTS + 1, rows of all folds], or why there is none."""
    curves = []
    for fold, split in enumerate(parts):
        run = held_out_curve(make_model(), loss, rows, split, settings)
        try:
            curves.append((yield from _counted(run, first + fold, runs, settings.strength)))
        except Divergence as failure:
            return failure
    curve = torch.cat(curves, dim=1)
    if not bool(curve[-1].isfinite().all()):
        return Divergence(f"expected finite held-out losses, got others at strength {settings.strength:g}: lower it")
    return curve


def _counted(
    run: Generator[Progress, None, Tensor], number: int, runs: int, strength: float
) -> Generator[ChoiceProgress, None, Tensor]:
    """`run`, its progress wrapped with where it stands."""
    while True:
        try:
            progress = next(run)
        except StopIteration as end:
            return end.value
        yield ChoiceProgress(number, runs, strength, progress)


def _decide(curves: dict[float, Tensor | Divergence], settings: Settings, held: int, fit: int) -> Choice:
    """The choice, from the candidates' curves."""
    alive = {strength: curve for strength, curve in curves.items() if isinstance(curve, Tensor)}
    if not alive:
        raise Divergence(
            f"expected one strength of {', '.join(f'{s:g}' for s in curves)} to converge, got none: lower the learning "
            f"rate (now {settings.learning_rate:g}) or add smaller candidates"
        )
    chosen, best = pick(alive), alive[lowest(alive)]
    trials = tuple(_trial(strength, curve, best, settings.steps) for strength, curve in curves.items())
    return Choice(chosen, _reason(chosen, curves), verdict(alive[chosen]), trials, held, fit)


def pick(curves: dict[float, Tensor]) -> float:
    """The greatest strength at most one paired standard error behind the lowest mean held-out loss at the last step.

    Args:
        curves: strength to held-out losses, [points, rows], over the same rows.
    """
    best = curves[lowest(curves)][-1]

    def indistinct(strength: float) -> bool:
        behind, error = mean_and_error(curves[strength][-1] - best)
        return behind <= error

    return max(filter(indistinct, curves))


def lowest(curves: dict[float, Tensor]) -> float:
    """The strength with the lowest mean held-out loss at the last step."""
    return min(curves, key=lambda strength: float(curves[strength][-1].mean()))


def _trial(strength: float, curve: Tensor | Divergence, best: Tensor, steps: int) -> Trial:
    if isinstance(curve, Divergence):
        return Trial(strength, (), (), math.nan, math.nan, str(curve))
    behind, error = mean_and_error(curve[-1] - best[-1])
    marks = (0, *marked_steps(steps))
    return Trial(strength, marks, tuple(curve.mean(dim=1).tolist()), behind, error, None)


def _reason(chosen: float, curves: dict[float, Tensor | Divergence]) -> str:
    if len(curves) == 1:
        return "given; an internal split of the clean rows only watches it"
    failed = [f"{strength:g}" for strength, curve in curves.items() if isinstance(curve, Divergence)]
    discarded = f"; discarded as diverged: {', '.join(failed)}" if failed else ""
    edges = {min(curves): "; it is the smallest candidate", max(curves): "; it is the greatest candidate"}
    edge = edges.get(chosen, "")
    tried = ", ".join(f"{strength:g}" for strength in curves)
    return f"greatest of {tried} within one standard error of the lowest loss on held-out clean rows{edge}{discarded}"


def _fallback(settings: Settings, candidates: Sequence[float], count: int, held: int) -> Choice:
    """What is done with too few rows to hold any out."""
    given = len(candidates) == 1
    strength = candidates[0] if given else FALLBACK[settings.method]
    few = (
        f"{count} clean rows, {held} of them held out, are too few to judge by (expected at least {FEWEST_ROWS} and "
        f"{FEWEST_HELD_OUT})"
    )
    reason = f"given; {few}" if given else f"{few}, so the fallback {strength:g} for {settings.method} is used"
    return Choice(strength, reason, "not watched: too few clean rows", (), held, count - held)


def _check(candidates: Sequence[float], folds: int, held_out: float) -> None:
    if not candidates:
        raise ConfigError("expected at least one candidate strength, got none: list some")
    if folds < 1:
        raise ConfigError(f"expected at least 1 internal split, got {folds}: raise it")
    if not 0 < held_out < 1:
        raise ConfigError(f"expected a held-out share between 0 and 1, got {held_out}: choose another")
