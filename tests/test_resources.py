"""What jobs reserve grows with what they hold, and with the budget one to one."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import config as settings
from pipeline.config import STAGES, Config
from pipeline.resources import limit_minutes, memory_mb
from pipeline.shards import Plan, cut


def config(**sections: Any) -> Config:
    return settings.validate(settings.merge(settings.defaults(), sections))


def plan(train: int) -> Plan:
    splits = {"train": train, "validation": 10, "query": 10}
    cuts = {name: cut([b"x"] * rows, 1000) for name, rows in splits.items()}
    whole = {"classes": (), "labelled": False, "trains": True, "shard_rows": 1000, "truth": "", "retired": ()}
    return Plan(splits=cuts, data={}, stamp={}, **whole)


STAGES_OF_RULES = [*(name for name in STAGES if name != "prepare")]


@pytest.mark.parametrize("stage", STAGES_OF_RULES)
def test_the_budget_is_reserved_and_room_beside_it(stage: str) -> None:
    small, large = (memory_mb(stage, config(compute={"memory_mb": budget}), plan(100)) for budget in (1000, 3000))
    assert large - small == 2000
    assert small >= 1000 + 270 + 480  # Snakemake's processes, interpreter and libraries as measured
    assert limit_minutes(stage) >= 30


def test_an_index_in_memory_is_counted_and_matrices_are() -> None:
    few, many = (memory_mb("index", config(), plan(rows)) for rows in (1000, 101_000))
    flat_mb = 100_000 * 4 * config().projection.dimension / 1e6
    assert many - few >= flat_mb
    narrow, wide = (memory_mb("curvature", config(projection={"dimension": k}), plan(100)) for k in (64, 4096))
    assert wide - narrow >= 4 * 8 * (4096**2 - 64**2) / 1e6
