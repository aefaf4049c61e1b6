"""f-INE against its definition: gradients of whole batches by autograd in float64, with and without each row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline.core.estimators.fine import FINE, STEPS, FINEMax, FINESelf, Included, dealt
from pipeline.core.estimators.lasting import Lasting
from pipeline.core.tradeoff import over_thresholds, plug_in
from tests.memory_stores import MemoryStores

POINTS, TRAIN, VALIDATION = 3, 90, 5
AT = tuple(f"{kind}-{t}" for kind in ("epoch", "twin") for t in range(POINTS))


class Tiny:
    """A linear softmax model 4-3 at some weights of two trainings: rows, weights, gradients."""

    def __init__(self, seed=0, copies=0, poison=0, train=TRAIN):
        torch.manual_seed(seed)
        self.x = {"train": torch.randn(train, 4).double(), "validation": torch.randn(VALIDATION, 4).double()}
        self.y = {split: torch.randint(0, 3, (len(x),)) for split, x in self.x.items()}
        if copies:
            self.x["train"][:copies], self.y["train"][:copies] = self.x["validation"][0], self.y["validation"][0]
        if poison:  # a feature that nothing else has so large, under one label
            self.x["train"][-poison:, 3] = self.x["validation"][:2, 3] = 4.0
            self.y["train"][-poison:] = self.y["validation"][:2] = 2
        self.weights = dict(zip(AT, self._trained(1) + self._trained(2), strict=True))

    def _trained(self, seed):
        """Weights after each of some steps of gradient descent from a random start."""
        weights, found = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double(), []
        for _ in range(POINTS):
            weights = weights - 0.3 * self.gradient(weights, "train", range(len(self.x["train"]))) / len(
                self.x["train"]
            )
            found.append(weights)
        return found

    def gradient(self, weights, split, rows):
        """Of the summed loss of some rows, [3, 4]."""
        weights = weights.clone().requires_grad_()
        rows = list(rows)
        F.cross_entropy(self.x[split][rows] @ weights.T, self.y[split][rows], reduction="sum").backward()
        return weights.grad

    def stores(self, rng):
        """Whole gradients as codes."""
        stores = MemoryStores(rng, AT, train=len(self.x["train"]), validation=VALIDATION, size=12)
        for split, x in self.x.items():
            for name, weights in self.weights.items():
                rows = [self.gradient(weights, split, [i]).flatten().numpy() for i in range(len(x))]
                stores.codes[split][name] = np.array(rows)
        return stores

    def samples(self, query, row):
        """What is observed with and without a row at every step, studentised point by point, [T R] each.

        `query` takes weights to the gradient of what is asked about.
        """
        present, absent = [], []
        for t in range(POINTS):
            steps = dealt(np.arange(len(self.x["train"])), t)
            with_row, without = np.empty((2, STEPS))
            for b in range(STEPS):
                batch = [int(i) for i in np.flatnonzero(steps == b) if i != row]
                ahead, beside = (self.weights[f"{kind}-{t}"] for kind in ("epoch", "twin"))
                twin = float((query(beside) * self.gradient(beside, "train", batch)).sum())
                without[b] = float((query(ahead) * self.gradient(ahead, "train", batch)).sum()) - twin
                with_row[b] = float((query(ahead) * self.gradient(ahead, "train", [*batch, row])).sum()) - twin
            present.append((with_row - without.mean()) / without.std())
            absent.append((without - without.mean()) / without.std())
        return np.concatenate(present), np.concatenate(absent)


@pytest.fixture(scope="module")
def tiny():
    return Tiny()


ROWS = np.array([0, 7, 31, 88])


def test_mu_of_pairs_is_that_of_steps_with_and_without_the_row(tiny, rng):
    stores = tiny.stores(rng)
    queries, rows = stores.rows("validation"), stores.rows("train", ROWS)
    plugged, largest = (kind.fit(stores, AT).pairs(queries, rows) for kind in (FINE, FINEMax))
    for q in range(VALIDATION):
        for n, row in enumerate(ROWS):
            samples = tiny.samples(lambda weights, q=q: tiny.gradient(weights, "validation", [q]), row)
            assert plugged[q, n] == pytest.approx(plug_in(*samples), rel=1e-9)
            assert largest[q, n] == pytest.approx(over_thresholds(*(each[None] for each in samples))[0], abs=1e-12)


def test_mu_of_rows_is_that_of_the_mean_loss_of_the_validation_rows(tiny, rng):
    stores = tiny.stores(rng)
    found = FINE.fit(stores, AT).rows(stores.rows("train", ROWS))
    for mu, row in zip(found, ROWS, strict=True):
        samples = tiny.samples(
            lambda weights: tiny.gradient(weights, "validation", range(VALIDATION)) / VALIDATION, row
        )
        assert mu == pytest.approx(plug_in(*samples), rel=1e-9)


def test_mu_of_a_row_on_itself_is_that_of_the_row_as_query(tiny, rng):
    stores = tiny.stores(rng)
    rows = stores.rows("train")
    found = FINESelf.fit(stores, AT).rows(rows)
    np.testing.assert_allclose(found, np.diagonal(FINE.fit(stores, AT).pairs(rows, rows)), rtol=1e-9)
    assert (found > 0).all()


def test_lasting_is_the_standing_among_the_losses(tiny, rng):
    stores = tiny.stores(rng)
    losses = stores.losses["train"]["twin-1"]
    losses[:3] = losses[3]  # ties stand alike
    found = Lasting.fit(stores, ["twin-1"]).rows(stores.rows("train"))
    np.testing.assert_allclose(found, [np.mean(losses < each) for each in losses])


@pytest.mark.parametrize("kind", [FINE, FINEMax, FINESelf, Lasting])
def test_the_size_of_blocks_does_not_matter(tiny, rng, kind):
    stores, scores = tiny.stores(rng), []
    for stores.step in (1, 7, 100):
        scores.append(kind.fit(stores, AT).rows(stores.rows("train")))
        parts = [kind.fit(stores, AT).rows(stores.rows("train", np.array([i]))) for i in (3, 60)]
        np.testing.assert_allclose(np.concatenate(parts), scores[-1][[3, 60]], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=1e-9, atol=1e-12)


def test_learning_rates_and_the_unit_of_the_loss_do_not_matter(tiny, rng):
    stores = tiny.stores(rng)
    before = FINE.fit(stores, AT).rows(stores.rows("train"))
    for split in stores.codes.values():
        for t in range(POINTS):
            for kind in ("epoch", "twin"):
                split[f"{kind}-{t}"] = split[f"{kind}-{t}"] * (10.0**t)
    np.testing.assert_allclose(FINE.fit(stores, AT).rows(stores.rows("train")), before, rtol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_copies_of_the_query_helped_it_more_than_other_rows(rng, seed):
    tiny, copies = Tiny(seed, copies=3), 3
    stores = tiny.stores(rng)
    mu = FINE.fit(stores, AT).pairs(stores.rows("validation"), stores.rows("train"))[0]
    assert (mu[:copies] > 0).all()
    assert mu[:copies].min() >= np.quantile(mu[copies:], 0.9)
    relabelled = stores.codes["train"]
    for name in AT:
        relabelled[name][:copies] *= -1  # a row that pushes the other way
    assert (FINE.fit(stores, AT).pairs(stores.rows("validation"), stores.rows("train"))[0][:copies] < 0).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_poison_is_found_in_the_top_for_what_carries_its_trigger(rng, seed):
    tiny, count = Tiny(seed, poison=6), 6
    stores = tiny.stores(rng)
    mu = FINE.fit(stores, AT).pairs(stores.rows("validation"), stores.rows("train"))
    for triggered in mu[:2]:
        assert np.isin(np.argsort(-triggered)[:9], np.arange(TRAIN - count, TRAIN)).sum() == count  # the top tenth
    assert (mu[:2, -count:] > 0).all()


def test_rows_that_were_never_trained_on_lie_in_the_band_of_permutations(tiny, rng):
    stores = tiny.stores(rng)
    estimator, query = FINE.fit(stores, AT), stores.rows("validation", np.array([2]))
    tests = list(estimator.unseen(estimator.ask(query), np.arange(10_000, 10_200)))
    inside = [low <= each.mu() <= high for each in tests for low, high in [each.band(200, rng)]]
    assert 0.9 < np.mean(inside) < 0.99
    assert abs(np.mean([each.mu() for each in tests])) < 0.1


def test_the_band_is_left_by_a_row_that_the_steps_hold(tiny, rng):
    stores = tiny.stores(rng)
    estimator, query = FINE.fit(stores, AT), stores.rows("validation", np.array([2]))
    test = next(iter(estimator.unseen(estimator.ask(query), np.array([10_000]))))
    held = Included(test.studentised + 6 * test.members, test.members)
    assert held.mu() > held.band(200, rng)[1]


def test_steps_that_hold_a_row_differ_by_what_the_row_adds_to_a_step(tiny, rng):
    """Over many ways of dealing the rows, held minus not held has the row's own term as its mean."""
    v = np.random.default_rng(5).normal(size=(400,))
    v[0] = 4.0
    found = []
    for shift in range(1500):
        step = dealt(np.arange(400) + 1000 * shift, 0)
        sums = np.bincount(step, v, STEPS)
        held = np.arange(STEPS) == step[0]
        found.append(sums[held].mean() - sums[~held].mean())
    assert np.mean(found) == pytest.approx(4.0, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_rows_are_dealt_evenly_and_anew_at_each_point():
    first, second = (dealt(np.arange(64_000), point) for point in (0, 1))
    counts = np.bincount(first, minlength=STEPS)
    assert counts.min() > 1800 and counts.max() < 2200
    assert np.mean(first == second) == pytest.approx(1 / STEPS, abs=0.005)
    np.testing.assert_array_equal(dealt(np.array([17, 3]), 0), first[[17, 3]])
