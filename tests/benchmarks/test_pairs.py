"""Scores of other libraries beside Lowland's: what they are asked, and how they are judged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import lds
from benchmarks.peers.pairs import read

N, Q, SUBSETS, MODELS = 12, 5, 8, 2


class Retrained:
    """Two models of each subset, whose loss is the sum of `truth` over its rows, and noise of the models' own."""

    def __init__(self) -> None:
        stream = np.random.default_rng(0)
        self.truth = stream.standard_normal((Q, N))
        self.kept = np.array([stream.permutation(N) < N // 2 for _ in range(SUBSETS)])
        noise = 0.1 * stream.standard_normal((MODELS, SUBSETS, Q))
        self.losses = np.concatenate(-(self.kept @ self.truth.T)[None] + noise)  # model after model

    def actions(self) -> dict[str, list[int]]:
        return {str(i): [i, SUBSETS + i] for i in range(SUBSETS)}

    def responses(self) -> list[str]:
        return ["loss"]

    def read(self, name: str) -> Any:
        return {"kept": np.tile(self.kept, (MODELS, 1)), "query_loss": self.losses}[name]


def rows_of(scores: dict[str, Any], retrained: Retrained) -> dict[str, float]:
    found = list(lds.judged("peer", scores, retrained, seed=0))  # type: ignore[arg-type]
    assert {row["response"] for row in found} == {"minus the loss"} and not any(row["control"] for row in found)
    return {row["method"]: row["lds"] for row in found}


def test_a_peer_is_judged_by_its_default_and_by_its_best_setting() -> None:
    retrained = Retrained()
    truth, nothing = retrained.truth, np.full((Q, N), np.nan)
    found = rows_of({"a|1": -truth, "a|2": truth, "a|3": nothing, "b|": truth}, retrained)
    assert list(found) == ["peer: a, as it comes", "peer: a, best of 3", "peer: b, as it comes"]
    assert found["peer: a, as it comes"] < -0.9 and found["peer: a, best of 3"] > 0.9
    assert found["peer: b, as it comes"] == found["peer: a, best of 3"]


def test_a_default_that_gives_no_numbers_is_said_and_others_are_tried() -> None:
    retrained = Retrained()
    found = rows_of({"a|0": np.full((Q, N), np.nan), "a|1": retrained.truth}, retrained)
    assert np.isnan(found["peer: a, as it comes"]) and found["peer: a, best of 2"] > 0.9


def test_a_peer_is_asked_of_the_same_model_and_rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    rows = torch.randn(N, 2, 2), torch.arange(N) % 2
    batches: Any = SimpleNamespace(batch=lambda which: rows)
    monkeypatch.setattr(lds, "read_weights", lambda path: model.state_dict())
    monkeypatch.setattr(lds, "task_of", lambda config, plan: None)
    monkeypatch.setattr(lds, "row_set", lambda task, split: type("Rows", (), {
        "__len__": lambda self: N, "batch": staticmethod(batches.batch)})())  # fmt: skip
    run: Any = SimpleNamespace(layout=SimpleNamespace(checkpoint=lambda name: name), config=None, plan=None)
    np.savez(tmp_path / "question.npz", **lds.question(run))
    asked = read(tmp_path / "question.npz")
    assert torch.equal(asked.model(asked.query[0]), model(rows[0])) and torch.equal(asked.train[1], rows[1])
    assert not asked.model.training


def test_methods_that_failed_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def scored(python: str, module: str, arguments: list[str], limit_s: float) -> tuple[str, str]:
        np.savez(arguments[-1], **{"works|": np.eye(2)})
        Path(f"{arguments[-1]}.failed").write_text(json.dumps({"fails": "ValueError: why"}))
        return "", ""

    monkeypatch.setattr(lds, "run_peer", scored)
    assert list(lds.asked("peer", tmp_path / "question.npz")) == ["works|"]
    assert "peer, fails: failed: ValueError: why" in capsys.readouterr().out


def test_a_peer_that_fails_as_a_whole_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lds, "PEERS", sys.executable)
    assert lds.asked("no_such_peer", tmp_path / "question.npz") == {}
    assert "no_such_peer: failed: ModuleNotFoundError" in capsys.readouterr().out


def test_without_their_environment_there_is_lowland_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lds, "PEERS", tmp_path / "none")
    run: Any = None
    assert lds.of_peers(run) == [] and "make bench" in capsys.readouterr().out
