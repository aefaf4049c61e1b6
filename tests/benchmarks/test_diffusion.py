"""What the tables of the benchmark `diffusion` are made of, on small numbers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.diffusion import Truth, by_kind, means, rates
from benchmarks.diffusion_runs import LEFT_OUT, wanted


@pytest.fixture
def truth() -> Truth:
    query = {"set": np.array(["a", "b"]), "class": np.array(["a 1", "b 1"])}
    train = {"set": np.array(["a"] * 6 + ["b"] * 6), "class": np.array(["a 1", "a 2"] * 3 + ["b 1", "b 2"] * 3)}
    return Truth(query, train, generated=1)


def test_rates_are_shares_of_the_top_from_the_own_group(truth: Truth) -> None:
    scores = np.stack([np.arange(12, 0, -1), np.arange(12, 0, -1)]).astype(float)  # train rows in their order
    found = rates(scores[:1], truth.part(slice(0, 1)))
    assert found == {"set@5": 1.0, "set@10": 0.6, "class@5": 0.6, "class@10": 0.3}
    assert rates(scores[1:], truth.part(slice(1, 2)))["set@5"] == 0.0


def test_generated_and_held_out_queries_are_told_apart(truth: Truth) -> None:
    scores = np.stack([np.arange(12, 0, -1), np.arange(12, 0, -1)]).astype(float)
    first, second = by_kind("x", scores, truth, query_ms=2.0)
    assert (first["queries"], first["set@5"], second["queries"], second["set@5"]) == ("generated", 1.0, "held out", 0.0)
    (row, other) = means([[first, second], [{**first, "set@5": 0.5}, second]])
    assert row["set@5"] == "0.750 (0.500-1.000)" and row["ms a query, from disk"] == 2.0 and row["kB a row"] is None
    assert other["set@5"] == "0.000 (0.000-0.000)"


def test_samples_are_made_of_the_classes_that_are_left_out_later() -> None:
    names = [LEFT_OUT[0], *(f"digits {number}" for number in (1, 2))]
    assert wanted(names, 6) == [LEFT_OUT[0]] * 4 + ["digits 1", "digits 2"]
