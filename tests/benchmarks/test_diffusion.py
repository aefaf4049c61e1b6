"""What the tables of the benchmark `diffusion` are made of, on small numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.diffusion import MEASURES, Truth, by_kind, means, rates
from benchmarks.diffusion_checks import against, confirmed
from benchmarks.diffusion_controls import classifier
from benchmarks.diffusion_runs import LEFT_OUT, wanted


@pytest.fixture
def truth() -> Truth:
    query = {"set": np.array(["a", "b"]), "class": np.array(["a 1", "b 1"])}
    train = {"set": np.array(["a"] * 6 + ["b"] * 6), "class": np.array(["a 1", "a 2"] * 3 + ["b 1", "b 2"] * 3)}
    return Truth(query, train, {"generated": slice(0, 1), "held out": slice(1, None)})


def test_rates_are_shares_of_the_top_from_the_own_group(truth: Truth) -> None:
    scores = np.stack([np.arange(12, 0, -1), np.arange(12, 0, -1)]).astype(float)  # train rows in their order
    found = rates(scores[:1], {kind: truth.own(kind)[:1] for kind in ("set", "class")})
    assert {name: found[name] for name in MEASURES} == {"set@5": 1.0, "set@10": 0.6, "class@5": 0.6, "class@10": 0.3}
    both = rates(scores, {kind: truth.own(kind) for kind in ("set", "class")})
    assert (both["set@5"], both["set@5 error"]) == (0.5, pytest.approx(0.5))  # of 1 and 0
    assert rates(scores[1:], {kind: truth.own(kind)[1:] for kind in ("set", "class")})["set@5"] == 0.0


def test_generated_and_held_out_queries_are_told_apart(truth: Truth) -> None:
    scores = np.stack([np.arange(12, 0, -1), np.arange(12, 0, -1)]).astype(float)
    first, second = by_kind("x", scores, truth, ms=2.0)
    assert (first["queries"], first["set@5"], second["queries"], second["set@5"]) == ("generated", 1.0, "held out", 0.0)


def test_seeds_are_means_with_their_range_and_may_differ_in_what_they_tried() -> None:
    row = {"queries": "generated", **dict.fromkeys(MEASURES, 1.0), **{f"{name} error": 0.1 for name in MEASURES}}
    first, second, other = means([[{**row, "method": "x", "ms": 2.0}, {**row, "method": "y"}],
                                  [{**row, "method": "x", "ms": 4.0, "set@5": 0.5}],
                                  [{**row, "method": "x", "ms": 3.0, "queries": "held out"}]])  # fmt: skip
    assert (first["set@5"], first["seeds"], first["CPU ms a query, from disk"]) == ("0.750 (0.500-1.000)", 2, 3.0)
    assert (second["method"], second["set@5"], second["seeds"], second["kB a row"]) == ("y", "1.000 ± 0.100", 1, None)
    assert other["queries"] == "held out"


def test_signs_are_confirmed_where_sum_and_rise_agree() -> None:
    rises = np.array([[1.0, -1.0, 0.2], [0.5, 0.5, 0.1]])  # two classes, three samples: of the first, first, second
    sums = {"x": np.array([[2.0, 2.0, 0.0], [1.0, 3.0, 1.0]])}
    found = confirmed(np.zeros(3), rises, sums, (np.array([0, 0, 1]), np.arange(3)))
    assert found["raised"] == 2 and found["rise without the own class"] == pytest.approx(0.1 / 3)
    assert found["without another class"] == pytest.approx((0.5 + 0.5 + 0.2) / 3)
    assert (found["x: sign confirmed"], found["x: own class is largest"]) == (2, 2)
    assert found["rises most without the own class"] == 1


def test_an_index_is_judged_query_by_query() -> None:
    same = np.array([[True, True, False], [True, False, False]])
    found = dict(against("set", same, near=np.array([[0, 2], [1, 2]]), exact=np.array([[0, 1], [0, 1]])))
    assert found == {"set@10, index": 0.25, "set@10, scan": 0.75, "set: better, worse": "0, 2"}


def test_samples_are_made_of_the_classes_that_are_left_out_later() -> None:
    names = [LEFT_OUT[0], *(f"digits {number}" for number in (1, 2))]
    assert wanted(names, 6) == [LEFT_OUT[0]] * 4 + ["digits 1", "digits 2"]


def test_a_classifier_tells_the_classes_that_it_learnt() -> None:
    classes = np.array(["bright", "dark"] * 40)
    images = torch.from_numpy(np.where(classes == "bright", 1.0, -1.0).astype(np.float32))[:, None, None, None]
    images = images.expand(-1, 1, 16, 16) + 0.1 * torch.randn(80, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    said = classifier(images, classes, seed=0)(images).argmax(1).numpy()
    assert (np.unique(classes)[said] == classes).all()
