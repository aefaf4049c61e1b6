"""What a benchmark made before is made again only under another configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import stages


def test_what_was_made_is_remembered_until_its_configuration_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "RUNS", tmp_path)
    (tmp_path / "b").mkdir()
    calls: list[int] = []

    def asked(config: Any, only_kept: bool = False) -> Any:
        return stages.remembered("b", "x", config, lambda: [calls.append(1), {"row": len(calls)}], only_kept)  # type: ignore[func-returns-value]

    assert asked({"a": (1, 2)}, only_kept=True) is None and not calls
    assert asked({"a": (1, 2)})[1] == {"row": 1} == asked({"a": [1, 2]}, only_kept=True)[1]  # as JSON they are equal
    assert asked({"a": 3}, only_kept=True) is None
    assert asked({"a": 3})[1] == {"row": 2}
    assert len(calls) == 2
