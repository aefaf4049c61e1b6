"""Times of the future become times of the present, and what is older stays older."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipeline.cli.clock import SLACK_S, settle

DAY_S = 86_400


def place(results: Path, name: str, offset_s: float) -> Path:
    file = results / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    at = time.time() + offset_s
    os.utime(file, (at, at))
    return file


def order(files: list[Path]) -> list[int]:
    """Rank of each file's time; equal times have equal ranks."""
    times = [file.stat().st_mtime_ns for file in files]
    return [sorted(set(times)).index(at) for at in times]


def test_order_is_kept_and_nothing_is_of_the_future(tmp_path: Path) -> None:
    offsets = [-DAY_S, -1, 3 * DAY_S, 2 * DAY_S, 2 * DAY_S + 0.5, SLACK_S / 2]
    files = [place(tmp_path, f"stage/{i}.json", offset) for i, offset in enumerate(offsets)]
    os.utime(place(tmp_path, "stage/6.json", 0), ns=(0, files[3].stat().st_mtime_ns))
    files.append(tmp_path / "stage/6.json")
    before = order(files)
    assert settle(tmp_path) == 4
    assert order(files) == before
    assert max(file.stat().st_mtime for file in files) < time.time() + SLACK_S + 1


def test_times_of_the_past_and_contents_of_stores_are_left_alone(tmp_path: Path) -> None:
    old, inside = place(tmp_path, "a.json", -DAY_S), place(tmp_path, "b.zarr/zarr.json", DAY_S)
    before = [file.stat().st_mtime_ns for file in (old, inside)]
    assert settle(tmp_path) == 0 and settle(tmp_path / "missing") == 0
    assert [file.stat().st_mtime_ns for file in (old, inside)] == before


@pytest.mark.parametrize("seed", range(3))
def test_settling_twice_is_settling_once(tmp_path: Path, seed: int) -> None:
    files = [place(tmp_path, f"{i}.json", (i * 7 + seed) % 5 * DAY_S) for i in range(6)]
    settle(tmp_path)
    once = [file.stat().st_mtime_ns for file in files]
    assert settle(tmp_path) == 0 and [file.stat().st_mtime_ns for file in files] == once
