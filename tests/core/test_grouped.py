"""Retrieval by groups against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.grouped import by_chance, judged, same_group

OWN = same_group(["a", "b", "c"], ["a", "b", "a", "b", "a", "b", "b"])


def test_same_group_is_of_equal_names() -> None:
    assert OWN.astype(int).tolist() == [[1, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 1, 1], [0] * 7]


def test_measures_are_those_counted_by_hand() -> None:
    scores = np.array([[7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]], float)
    found = judged(scores, OWN)
    # The first query's best three: its own, another's, its own. Of 12 pairs 3 + 2 + ... stand rightly.
    assert found["recall"][0] == pytest.approx(2 / 3)
    assert found["auc"][0] == pytest.approx((4 + 3 + 2) / 12)
    assert found["share of the best 5"][0] == pytest.approx(3 / 5)
    assert found["share of the best 10"][0] == pytest.approx(3 / 7)  # as many as there are
    assert found["recall"][1] == pytest.approx(3 / 4)
    assert all(np.isnan(values[2]) for values in found.values())


def test_a_score_that_knows_the_groups_is_perfect_and_its_opposite_the_worst() -> None:
    own = OWN[:2]
    assert all((judged(own.astype(float), own)[name] == 1).all() for name in ("auc", "recall"))
    assert (judged(-own.astype(float), own)["auc"] == 0).all()


def test_chance_is_the_mean_over_random_orders() -> None:
    random, own = np.random.default_rng(0), np.repeat(OWN[:1], 4000, 0)
    found = judged(random.random(own.shape), own)
    for name, expected in by_chance(own).items():
        error = found[name].std() / np.sqrt(len(own))
        assert abs(found[name].mean() - expected[0]) < 4 * error + 1e-12
