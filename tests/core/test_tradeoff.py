"""mu between two samples: known Gaussians, units, ties, bias, and the band of permutations."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.tradeoff import band, over_thresholds, plug_in, quantiles


def brute(present, absent):
    """The largest mu(tau) by trying every threshold."""
    n, m, best = len(present), len(absent), 0.0
    for threshold in np.concatenate([present, absent]):
        alpha, beta = np.mean(present <= threshold), np.mean(absent > threshold)
        mu = quantiles(n)[round((1 - alpha) * n)] - quantiles(m)[round(beta * m)]
        best = mu if abs(mu) > abs(best) else best
    return best


def test_both_find_the_mu_of_gaussians_and_its_sign(rng):
    absent = rng.normal(size=(1, 200_000))
    for mu in (-1.5, 0.4):
        present = rng.normal(mu, size=(1, 200_000))
        assert plug_in(present, absent)[0] == pytest.approx(mu, abs=0.02)
        assert np.sign(over_thresholds(present, absent)[0]) == np.sign(mu)


def test_thresholds_are_all_tried(rng):
    present, absent = (np.round(rng.normal(size=(6, count)), 1) for count in (25, 40))  # rounded: there are ties
    found = over_thresholds(present, absent)
    np.testing.assert_allclose(np.abs(found), [abs(brute(*each)) for each in zip(present, absent, strict=True)])


def test_mu_has_no_unit(rng):
    present, absent = rng.normal(0.3, size=(3, 40)), rng.normal(size=(3, 40))
    for found in (plug_in, over_thresholds):
        np.testing.assert_allclose(found(7 * present + 2, 7 * absent + 2), found(present, absent), rtol=1e-9)
        np.testing.assert_allclose(found(-present, -absent), -found(present, absent), rtol=1e-9)


def test_samples_that_do_not_vary_have_no_mu():
    assert plug_in(np.ones(4), np.zeros(4)) == 0


def test_the_largest_over_thresholds_is_biased_and_the_plug_in_is_not(rng):
    present, absent = rng.normal(size=(2, 400, 100))
    assert abs(plug_in(present, absent).mean()) < 0.03
    assert np.abs(over_thresholds(present, absent)).mean() > 3 * np.abs(plug_in(present, absent)).mean()


def test_the_band_holds_95_percent_of_samples_of_one_distribution(rng):
    inside = []
    for _ in range(300):
        present, absent = rng.exponential(size=6), rng.exponential(size=60)
        low, high = band(present, absent, 200, rng)
        inside.append(low <= plug_in(present, absent) <= high)
    assert 0.9 < np.mean(inside) < 0.99
