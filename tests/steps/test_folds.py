"""The folds of the clean validation rows."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.minimum import Divergence, Settings
from pipeline.steps import folds
from pipeline.steps.folds import fold_splits

PLAIN = Settings("sam", 0.0, 3, 0.1, 0.9, 0.0, 8, 1, 0.0, "sgd", 0)


@pytest.mark.parametrize(("count", "folds", "made"), [(23, 5, 5), (10, 5, 5), (7, 5, 3), (4, 2, 2)])
def test_every_row_is_held_out_once(count: int, folds: int, made: int) -> None:
    parts = fold_splits(count, folds, seed=3)
    assert len(parts) == made
    assert sorted(row for _, kept in parts for row in kept) == list(range(count))
    assert all(sorted(fit + kept) == list(range(count)) for fit, kept in parts)
    assert max(len(kept) for _, kept in parts) - min(len(kept) for _, kept in parts) <= 1


@pytest.mark.parametrize(("count", "folds"), [(3, 5), (50, 1)])
def test_too_few_rows_or_one_fold_hold_out_none(count: int, folds: int) -> None:
    assert fold_splits(count, folds, seed=0) == [(list(range(count)), [])]


def descended(monkeypatch: pytest.MonkeyPatch, strength: float, losses: dict[float, float]) -> tuple[Any, ...]:
    """A fold whose descents end at the losses by their strengths (NaN: diverges); its model, all strengths, steps."""
    tried: list[float] = []
    steps: list[int] = []

    def descend(model: nn.Module, loss: Any, rows: Any, settings: Settings) -> Iterator[int]:
        tried.append(settings.strength)
        yield from range(settings.steps)
        if losses[settings.strength] != losses[settings.strength]:
            raise Divergence("no longer finite")
        model.weight.data.fill_(settings.strength)

    monkeypatch.setattr(folds, "descend", descend)
    monkeypatch.setattr(folds, "mean_loss", lambda *_: losses[tried[-1]])
    monkeypatch.setattr(folds, "model_at", lambda *_: nn.Linear(1, 1, bias=False))
    job: Any = SimpleNamespace(layout=None, say=lambda _: None)
    rows: Any = SimpleNamespace(device=torch.device("cpu"))
    progress: Any = SimpleNamespace(add=lambda: steps.append(1))
    settings = folds.replace(PLAIN, strength=strength)
    task: Any = SimpleNamespace(loss=None)
    return folds._fold(job, task, rows, [0, 1], settings, 1.0, progress), tried, len(steps)


@pytest.mark.parametrize(
    ("strength", "losses", "tried"),
    [
        (0.4, {0.4: 0.9}, [0.4]),
        (0.4, {0.4: 2.3, 0.2: 1.0}, [0.4, 0.2]),
        (0.4, {0.4: float("nan"), 0.2: 2.3, 0.1: 2.3, 0.0: 2.3}, [0.4, 0.2, 0.1, 0.0]),
        (0.0, {0.0: 2.3}, [0.0]),
    ],
)
def test_a_fold_that_collapses_begins_again_with_less_strength(
    monkeypatch: pytest.MonkeyPatch, strength: float, losses: dict[float, float], tried: list[float]
) -> None:
    model, found, steps = descended(monkeypatch, strength, losses)
    assert found == tried
    assert model.weight.item() == pytest.approx(tried[-1])
    assert steps == PLAIN.steps


def test_a_fold_that_diverges_without_strength_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Divergence):
        descended(monkeypatch, 0.0, {0.0: float("nan")})
