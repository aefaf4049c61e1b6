"""The evidence benchmark prints what was run and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import evidence
from benchmarks.evidence import CELLS, options_of, rows_of
from pipeline.tasks.names import BUILT_IN

A, B = ("AUC", "loss", "flat"), ("AUC", "S", "flat")


def test_rows_are_means_over_the_seeds() -> None:
    rows = rows_of({"c": [{A: 0.5, B: 0.9}, {A: 0.7, B: 0.9}]})
    assert [(row["method"], row["mean"], row["seeds"]) for row in rows] == [("loss", 0.6, 2), ("S", 0.9, 2)]
    assert rows[0]["deviation"] == pytest.approx(0.1414, abs=1e-3)
    assert rows_of({"c": [{A: 0.5}]})[0]["deviation"] is None


@pytest.mark.parametrize("runs", [[], [{A: 0.5}, {B: 0.5}]])
def test_a_cell_that_was_not_run_is_not_printed(runs: list[Any]) -> None:
    with pytest.raises(ValueError, match="expected runs of the same methods in the cell c"):
        rows_of({"c": runs})


def test_cells_are_told_apart_and_name_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    assert {cell.task for cell in CELLS} <= set(BUILT_IN)
    assert all("planted" in cell.name or "human" in cell.name for cell in CELLS)
    monkeypatch.setenv("LOWLAND_CIFAR", "/data")
    assert options_of(CELLS[-1], False, 3)["path"] == "/data" and options_of(CELLS[0], True, 3)["train_size"] == 1000


def test_a_failed_run_leaves_no_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(evidence, "keep", lambda *a, **k: kept.append(a))
    with pytest.raises(SystemExit, match="failed, so that there is no table"):
        evidence.run(tmp_path / "r", "digits", {"nose": "uniform"}, 0)
    assert not kept
