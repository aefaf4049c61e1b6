"""The table of the benchmark `gan`: means and errors over runs, and nothing where nothing was tried."""

from __future__ import annotations

import pytest

from benchmarks.gan import CELLS, RANKINGS, RETRAINED, rows_of
from pipeline.methods import METHODS


def tables(gain: float) -> dict[str, list[dict]]:
    named = [(METHODS[name].title, METHODS[name].at[0]) for name in (*RANKINGS, "loss_flat")]
    replay = [{"method": title, "checkpoint": at, "epochs": epochs, "kendall": gain / epochs, "gain": gain if epochs == 10 else -gain}
              for title, at in named for epochs in (1, 2, 5, 10)]  # fmt: skip
    wanted = [(METHODS[name].title, METHODS[name].at[0]) for name in RETRAINED]
    return {"replay": replay, "retraining-cleansing": [{"rows": title, "checkpoint": at, "over_control": -gain} for title, at in wanted]}  # fmt: skip


def test_rows_are_means_over_the_runs() -> None:
    rows = rows_of(CELLS[0], [tables(0.2), tables(0.4), tables(-0.3)])
    assert [row["score"] for row in rows] == [METHODS[name].title for name in RANKINGS]
    first, second = rows[0], rows[1]
    assert first["tau 2"] == pytest.approx(0.05) and first["least tau"] == pytest.approx(-0.3)
    assert (first["replay 10"], first["replay 10 gains"]) == (pytest.approx(0.1), pytest.approx(2 / 3))
    assert first["replay 10 error"] == pytest.approx(0.36056 / 3**0.5, rel=1e-4)
    assert (first["retrained"], first["retrained gains"]) == (pytest.approx(-0.1), pytest.approx(1 / 3))
    assert (first["replay 1"], first["replay 1 gains"]) == (pytest.approx(-0.1), pytest.approx(1 / 3))
    assert second["retrained"] is None and second["retrained error"] is None and first["runs"] == 3


def test_one_run_has_no_error() -> None:
    assert rows_of(CELLS[0], [tables(0.2)])[0]["replay 10 error"] is None
