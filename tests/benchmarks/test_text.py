"""The table of the benchmark `text`: means and ranges over the seeds."""

from __future__ import annotations

import pytest

from benchmarks.text import MEASURES, over_seeds, seeds_of


def row(method: str, at: str, auc: float, seed: int) -> dict:
    return {"task": "t", "method": method, "at": at, "control": method == "BM25", "seed": seed, "auc": auc,
            **dict.fromkeys(MEASURES[1:], auc / 2)}  # fmt: skip


def test_methods_are_told_apart_by_where_they_are_asked() -> None:
    rows = [row("FVM", at, auc + seed / 10, seed) for at, auc in (("sam", 0.5), ("plain", 0.2)) for seed in (1, 2)]
    found = list(over_seeds([*rows, row("BM25", "none", 0.9, 1)]))
    assert [(each["method"], each["at"], each["control"], each["seeds"]) for each in found] == [
        ("FVM", "sam", "", 2), ("FVM", "plain", "", 2), ("BM25", "none", "yes", 1)]  # fmt: skip
    assert found[0]["auc"] == pytest.approx(0.65) and found[0]["AUC, range"] == "0.600-0.700"
    assert found[1]["recall"] == pytest.approx(0.175)


def test_as_many_seeds_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEXT_SEEDS", raising=False)
    assert list(seeds_of("small")) == [1]
    monkeypatch.setenv("TEXT_SEEDS", "2")
    assert list(seeds_of("full")) == [1, 2]
    for asked in ("0", "two", ""):
        monkeypatch.setenv("TEXT_SEEDS", asked)
        with pytest.raises(SystemExit, match="expected TEXT_SEEDS to be a number of seeds from 1"):
            seeds_of("small")
