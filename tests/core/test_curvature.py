"""Spectra against dense matrices, the generalised Gauss-Newton matrix against its definition, and damping."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.core.curvature import (
    absolute_damping,
    identity_spectrum,
    outer_sum,
    spectrum_of_roots,
    spectrum_of_squares,
    spectrum_of_sum,
    square_sum,
)
from pipeline.errors import DataError
from tests.oracles_curvature import second_moment, softmax


def dense(spectrum) -> np.ndarray:
    """V diag(e) V^T."""
    vectors = np.eye(len(spectrum.values)) if spectrum.vectors is None else spectrum.vectors
    return vectors @ np.diag(spectrum.values) @ vectors.T


@pytest.mark.parametrize(("roots", "dimension"), [(5, 12), (11, 12), (12, 12), (40, 12), (1, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_both_routes_give_the_dense_matrix(rng, roots, dimension, dtype):
    rows = (rng.normal(size=(roots, dimension)) * np.geomspace(1, 1e-3, dimension)).astype(dtype)
    expected = second_moment(rows, 7)
    for spectrum in (spectrum_of_roots(rows, 7), spectrum_of_sum(outer_sum(rows), 7)):
        np.testing.assert_allclose(dense(spectrum), expected, rtol=1e-10, atol=1e-14 * np.trace(expected))
        assert spectrum.trace == pytest.approx(np.trace(expected), rel=1e-12) and spectrum.rows == 7
        assert (np.diff(spectrum.values) <= 0).all() and (spectrum.values > 0).all()
        assert len(spectrum.values) <= min(roots, dimension)
        np.testing.assert_allclose(spectrum.vectors.T @ spectrum.vectors, np.eye(len(spectrum.values)), atol=1e-12)


def test_sums_over_parts_merge(rng):
    rows = rng.normal(size=(20, 6)).astype(np.float32)
    np.testing.assert_allclose(outer_sum(rows[:7]) + outer_sum(rows[7:]), outer_sum(rows), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(square_sum(rows[:7]) + square_sum(rows[7:]), square_sum(rows), rtol=1e-12)
    assert outer_sum(rows).dtype == square_sum(rows).dtype == np.float64


def test_sums_are_not_taken_in_float32():
    rows = np.full((3, 2), 1e-25, np.float32)
    assert outer_sum(rows)[0, 1] == pytest.approx(3e-50, rel=1e-6) and square_sum(rows)[0] == pytest.approx(
        3e-50, rel=1e-6
    )


def test_the_diagonal_is_that_of_the_dense_matrix(rng):
    rows = rng.normal(size=(9, 5))
    spectrum = spectrum_of_squares(square_sum(rows), 9)
    assert spectrum.vectors is None
    np.testing.assert_allclose(spectrum.values, np.diag(second_moment(rows, 9)), rtol=1e-12)


def test_the_identity_is_the_identity():
    assert np.array_equal(dense(identity_spectrum(4, 9)), np.eye(4))


def test_directions_that_are_mere_rounding_are_dropped(rng):
    rows = np.repeat(rng.normal(size=(3, 8)), 10, axis=0)
    for spectrum in (spectrum_of_roots(rows, 30), spectrum_of_sum(outer_sum(rows), 30)):
        assert len(spectrum.values) == 3


def test_roots_over_labels_give_the_generalised_gauss_newton_matrix(rng):
    """Softmax regression z = theta x: J^T (diag p - p p^T) J with J = I (x) x, against roots sqrt(p_c) g_c."""
    rows, classes, inputs = 13, 4, 5
    x, theta = rng.normal(size=(rows, inputs)), rng.normal(size=(classes, inputs))
    p = softmax(x @ theta.T)
    gauss_newton = np.zeros((classes * inputs, classes * inputs))
    roots = []
    for features, chances in zip(x, p, strict=True):
        jacobian = np.kron(np.eye(classes), features[None])
        gauss_newton += jacobian.T @ (np.diag(chances) - np.outer(chances, chances)) @ jacobian / rows
        for label in range(classes):
            roots.append(np.sqrt(chances[label]) * np.kron(chances - np.eye(classes)[label], features))
    for spectrum in (spectrum_of_roots(np.array(roots), rows), spectrum_of_sum(outer_sum(np.array(roots)), rows)):
        np.testing.assert_allclose(dense(spectrum), gauss_newton, atol=1e-13)


def test_drawn_labels_give_it_on_average(rng):
    classes, draws = 3, 40_000
    p = softmax(rng.normal(size=(1, classes)))[0]
    labels = rng.choice(classes, size=draws, p=p)
    roots = (p - np.eye(classes)[labels]) / np.sqrt(draws)
    np.testing.assert_allclose(outer_sum(roots), np.diag(p) - np.outer(p, p), atol=5 / np.sqrt(draws))


def test_damping_is_relative_to_the_mean_over_rows(rng):
    rows = rng.normal(size=(9, 5))
    spectrum = spectrum_of_roots(rows, 9)
    assert absolute_damping(spectrum, 0.5) == pytest.approx(0.5 * np.trace(second_moment(rows, 9)) / 9, rel=1e-12)
    assert absolute_damping(spectrum_of_roots(10 * rows, 9), 0.5) == pytest.approx(
        100 * absolute_damping(spectrum, 0.5), rel=1e-12
    )
    padded = np.concatenate([rows, np.zeros((9, 20))], axis=1)
    assert absolute_damping(spectrum_of_roots(padded, 9), 0.5) == pytest.approx(
        absolute_damping(spectrum, 0.5), rel=1e-12
    )


@pytest.mark.parametrize("make", [
    lambda rows: spectrum_of_roots(rows, len(rows)),
    lambda rows: spectrum_of_sum(outer_sum(rows), len(rows)),
    lambda rows: spectrum_of_squares(square_sum(rows), len(rows)),
])  # fmt: skip
def test_no_damping_is_relative_to_zero(make):
    message = (
        "expected gradients that differ from zero in the rows behind the curvature, got none; check that the "
        "loss depends"
    )
    with pytest.raises(DataError, match=message):
        absolute_damping(make(np.zeros((3, 6))), 1.0)
