"""Figures of merit of samples against scipy and definitions."""

from __future__ import annotations

import numpy as np
import torch
from scipy import linalg
from scipy.stats import multivariate_normal

from pipeline.core.merit import closeness, log_inception_score, log_likelihood


def drawn(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape))


def test_the_likelihood_is_that_of_a_kernel_density(rng: np.random.Generator) -> None:
    samples, rows = drawn(rng, 7, 2), drawn(rng, 5, 2)
    densities = [
        np.mean([multivariate_normal(each, 0.3**2 * np.eye(2)).pdf(row) for each in samples.numpy()])
        for row in rows.numpy()
    ]
    np.testing.assert_allclose(log_likelihood(samples, rows, 0.3), np.log(densities).mean(), rtol=1e-10)


def test_the_inception_score_is_between_none_and_all_classes(rng: np.random.Generator) -> None:
    sure = 50 * torch.eye(5, dtype=torch.float64)
    assert abs(float(log_inception_score(sure)) - np.log(5)) < 1e-9
    assert abs(float(log_inception_score(sure[[2, 2, 2]]))) < 1e-9
    logits = drawn(rng, 20, 5)
    p = logits.softmax(1).numpy()
    expected = np.mean([np.sum(row * np.log(row / p.mean(0))) for row in p])
    np.testing.assert_allclose(log_inception_score(logits), expected, rtol=1e-10)


def test_closeness_is_minus_the_frechet_distance(rng: np.random.Generator) -> None:
    samples, rows = drawn(rng, 60, 4) @ drawn(rng, 4, 4) + 1, drawn(rng, 80, 4)
    s, r = (np.cov(each.numpy().T) for each in (samples, rows))
    apart = np.square(samples.numpy().mean(0) - rows.numpy().mean(0)).sum()
    expected = apart + np.trace(s + r - 2 * np.real(linalg.sqrtm(s @ r)))
    np.testing.assert_allclose(-closeness(samples, rows), expected, rtol=1e-8)
    assert abs(float(closeness(rows, rows))) < 1e-6
