"""The folds of the clean validation rows."""

from __future__ import annotations

import pytest

from pipeline.steps.folds import fold_splits


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
