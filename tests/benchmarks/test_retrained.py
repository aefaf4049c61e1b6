"""Benchmarks of retrained models: what was done is not done again, and what several runs come to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import cleansing, lds, stages

VALUES: dict[str, Any] = {
    "task": {"class": "digits", "options": {"train_size": 20, "validation_size": 10, "query_size": 5}}
}


@pytest.fixture
def did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the stages that were done; only `prepare` does anything."""
    done: list[str] = []
    real = stages.stage

    def stage(layout: Any, config: Any, name: str, **where: Any) -> None:
        done.append(name)
        if name == "prepare":
            real(layout, config, name)

    monkeypatch.setattr(stages, "RUNS", tmp_path)
    monkeypatch.setattr(stages, "stage", stage)
    return done


def made(values: dict[str, Any], *names: str) -> None:
    stages.Run("b", "r", values).make([(name, {}) for name in names])


def test_stages_are_done_once_and_from_the_first_that_differs_on(did: list[str]) -> None:
    made(VALUES, "train", "flatten", "folds")
    made(VALUES, "train", "flatten", "folds", "scores")
    assert did == ["prepare", "train", "flatten", "folds", "prepare", "scores"]
    del did[:]
    made({**VALUES, "flatten": {"steps": 7}}, "train", "flatten", "folds", "scores")
    assert did == ["prepare", "flatten", "folds", "scores"]
    del did[:]
    made(VALUES, "train", "flatten")
    assert did == ["prepare", "flatten"]


def test_a_stage_that_fails_is_done_again(did: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    working = stages.stage

    def broken(layout: Any, config: Any, name: str, **where: Any) -> None:
        if name == "flatten":
            raise OSError
        working(layout, config, name, **where)

    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(stages, "stage", broken)
        made(VALUES, "train", "flatten")
    made(VALUES, "train", "flatten")
    assert did == ["prepare", "train", "prepare", "flatten"]


def lds_row(value: float) -> dict[str, Any]:
    return {"method": "influence", "checkpoint": "trained", "signed": True, "control": False, "response": "margin",
            "lds": value, "low": value - 0.1, "high": value + 0.2}  # fmt: skip


def test_lds_of_one_run_has_its_interval_and_of_several_the_range() -> None:
    (one,) = lds.rows_of(60, [[lds_row(0.5)]])
    assert one == {"setting": "60 epochs, margin", "method": "influence", "checkpoint": "trained", "signed": "yes",
                   "control": "", "lds": 0.5, "low": 0.4, "high": 0.7}  # fmt: skip
    (several,) = lds.rows_of(60, [[lds_row(value)] for value in (0.5, 0.2, 0.8)])
    assert (several["lds"], several["low"], several["high"]) == (pytest.approx(0.5), 0.2, 0.8)


def test_gains_of_one_run_have_its_error_and_of_several_that_of_their_mean() -> None:
    assert cleansing.gain([0.1], 0.03) == (0.1, 0.03)
    mean, error = cleansing.gain([0.1, 0.2, 0.3], 0.03)
    assert (mean, error) == (pytest.approx(0.2), pytest.approx(0.1 / 3**0.5))


def test_the_cells_of_cleansing_are_there_once() -> None:
    for setting, sizes in cleansing.SIZES.items():
        assert sorted(cell.data for cell in cleansing.cells(setting)) == sorted(sizes)
