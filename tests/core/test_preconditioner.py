"""H^-1 against dense solvers at dampings over eight decades, exact identities, and leave-one-out in closed form."""

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
from pipeline.core.influence import pairwise
from pipeline.core.preconditioner import Preconditioner
from tests.oracles_curvature import inverse_square_root, second_moment

DAMPINGS = [10.0**e for e in range(-6, 3)]
SIZES = [(6, 20), (19, 20), (20, 20), (60, 20)]
"""M rows and K coordinates: far from full rank, nearly, just, and more than enough."""


def rows_of(rng, rows, dimension=20):
    return rng.normal(size=(rows, dimension)) * np.geomspace(1, 0.03, dimension)


def spectra(rows):
    return [spectrum_of_roots(rows, len(rows)), spectrum_of_sum(outer_sum(rows), len(rows))]


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("size", SIZES)
def test_solve_forms_and_half_are_those_of_the_dense_matrix(rng, size, damping):
    rows, g = rows_of(rng, *size), rows_of(rng, 7)
    c = second_moment(rows, len(rows))
    for spectrum in spectra(rows):
        fitted = Preconditioner.fit(spectrum, damping)
        h = c + fitted.damping * np.eye(len(c))
        u = np.linalg.solve(h, g.T).T
        assert fitted.damping == pytest.approx(damping * np.trace(c) / len(rows), rel=1e-12)
        tolerance = {"rtol": 1e-7, "atol": 1e-13 * np.linalg.cond(h) * np.abs(u).max()}
        np.testing.assert_allclose(fitted.solve(g), u, **tolerance)
        np.testing.assert_allclose(fitted.half(g), g @ inverse_square_root(h), **tolerance)
        forms = fitted.forms(g)
        np.testing.assert_allclose(forms.s, np.einsum("nk,nk->n", g, u), rtol=1e-7)
        np.testing.assert_allclose(forms.squared_norm, (u**2).sum(1), rtol=1e-7)
        # The dense u^T C u cancels where u lies mostly outside of C; the identities below are sharper.
        np.testing.assert_allclose(forms.w, np.einsum("nk,kl,nl->n", u, c, u), rtol=1e-5)


@pytest.mark.parametrize("damping", DAMPINGS)
@pytest.mark.parametrize("size", SIZES)
def test_the_set_level_form_is_exact_in_both_its_other_shapes(rng, size, damping):
    """W = S - lambda |H^-1 g|^2 = mean over m of (u_m^T g)^2, to 1e-10 of S."""
    rows, g = rows_of(rng, *size), rows_of(rng, 7)
    for spectrum in spectra(rows):
        fitted = Preconditioner.fit(spectrum, damping)
        forms = fitted.forms(g)
        np.testing.assert_allclose(
            forms.s - fitted.damping * forms.squared_norm, forms.w, atol=1e-10 * forms.s.max(), rtol=0
        )
        means = pairwise("fvm", fitted.solve(rows), g).mean(0)
        np.testing.assert_allclose(means, forms.w, rtol=1e-10 if damping >= 1e-4 else 1e-8)


@pytest.mark.parametrize("rank", [9, 200])
@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_the_root_undoes_the_half_and_asks_for_plain_inner_products(rng, damping, rank):
    rows, g, u = rows_of(rng, rank), rows_of(rng, 7), rows_of(rng, 5)
    fitted = Preconditioner.fit(spectrum_of_roots(rows, rank), damping)
    np.testing.assert_allclose(fitted.root(fitted.half(g)), g, rtol=1e-8, atol=1e-8 * np.abs(g).max())
    expected = u @ g.T
    np.testing.assert_allclose(
        fitted.root(u) @ fitted.half(g).T, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max()
    )


@pytest.mark.parametrize("damping", [1e-6, 1.0, 1e2])
def test_inner_products_of_half_whitened_rows_are_those_of_the_solution(rng, damping):
    rows, g = rows_of(rng, 9), rows_of(rng, 7)
    fitted = Preconditioner.fit(spectrum_of_roots(rows, 9), damping)
    expected = fitted.solve(g) @ g.T
    np.testing.assert_allclose(
        fitted.half(g) @ fitted.half(g).T, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max()
    )
    np.testing.assert_allclose((fitted.half(g) ** 2).sum(1), fitted.forms(g).s, rtol=1e-10)


@pytest.mark.parametrize("damping", DAMPINGS)
def test_the_diagonal_kind_is_a_division(rng, damping):
    rows, g = rows_of(rng, 9), rows_of(rng, 7)
    fitted = Preconditioner.fit(spectrum_of_squares(square_sum(rows), 9), damping)
    c = (rows**2).mean(0)
    h = c + damping * c.sum() / 9
    np.testing.assert_allclose(fitted.solve(g), g / h, rtol=1e-12)
    np.testing.assert_allclose(fitted.half(g), g / np.sqrt(h), rtol=1e-12)
    forms = fitted.forms(g)
    np.testing.assert_allclose(forms.s, (g**2 / h).sum(1), rtol=1e-12)
    np.testing.assert_allclose(forms.w, (g**2 * c / h**2).sum(1), rtol=1e-12)
    np.testing.assert_allclose(forms.squared_norm, (g**2 / h**2).sum(1), rtol=1e-12)


def test_the_identity_kind_gives_squared_norms_at_any_damping(rng):
    g = rows_of(rng, 7)
    fitted = Preconditioner.fit(identity_spectrum(20, 9), 3.0, "identity")
    forms = fitted.forms(g)
    assert fitted.damping == 0 and np.array_equal(fitted.solve(g), g) and np.array_equal(fitted.half(g), g)
    for form in (forms.s, forms.w, forms.squared_norm):
        np.testing.assert_allclose(form, (g**2).sum(1), rtol=1e-12)


def test_float32_rows_are_treated_as_float64(rng):
    rows, g = rows_of(rng, 9).astype(np.float32), rows_of(rng, 7).astype(np.float32)
    fitted = Preconditioner.fit(spectrum_of_roots(rows, 9), 1e-3)
    assert fitted.solve(g).dtype == np.float64
    assert np.array_equal(fitted.solve(g), fitted.solve(g.astype(np.float64)))


def test_no_rows_give_no_rows(rng):
    fitted = Preconditioner.fit(spectrum_of_roots(rows_of(rng, 9), 9), 1.0)
    none = np.zeros((0, 20), np.float32)
    assert fitted.solve(none).shape == fitted.half(none).shape == (0, 20) and fitted.forms(none).s.shape == (0,)


def test_rows_outside_of_the_curvature_are_only_damped(rng):
    rows = np.concatenate([rows_of(rng, 9, 5), np.zeros((9, 3))], axis=1)
    fitted = Preconditioner.fit(spectrum_of_roots(rows, 9), 1e-6)
    g = np.zeros((1, 8))
    g[0, 6] = 2.0
    np.testing.assert_allclose(fitted.solve(g), g / fitted.damping, rtol=1e-12)
    assert fitted.forms(g).w[0] == 0 and fitted.forms(g).s[0] == pytest.approx(4 / fitted.damping)


def test_scores_do_not_change_their_order_when_all_gradients_are_scaled(rng):
    rows, g = rows_of(rng, 9), rows_of(rng, 7)
    s = Preconditioner.fit(spectrum_of_roots(rows, 9), 1.0).forms(g).s
    np.testing.assert_allclose(
        Preconditioner.fit(spectrum_of_roots(100 * rows, 9), 1.0).forms(100 * g).s, s, rtol=1e-10
    )


def ridge(x, y, penalty, weights):
    """The minimiser of (1/N) sum of w_i (x_i theta - y_i)^2 / 2 + penalty |theta|^2 / 2."""
    h = (x * weights[:, None]).T @ x / len(x) + penalty * np.eye(x.shape[1])
    return np.linalg.solve(h, (weights * y) @ x / len(x))


@pytest.mark.parametrize("route", [spectrum_of_roots, lambda roots, rows: spectrum_of_sum(outer_sum(roots), rows)])
def test_influence_is_leave_one_out_of_a_ridge_regression_to_first_order(rng, route):
    """Roots x_i make H exact: dropping a fraction e of row i raises a query's loss by e u^T g_i / N + O(e^2)."""
    n, k, step = 30, 4, 1e-5
    x, noise = rng.normal(size=(n, k)), rng.normal(size=n)
    y = x @ rng.normal(size=k) + 0.3 * noise
    spectrum = route(x, n)
    damping = 0.5
    penalty = absolute_damping(spectrum, damping)
    theta = ridge(x, y, penalty, np.ones(n))
    query_x, query_y = rng.normal(size=(3, k)), rng.normal(size=3)
    g = x * (x @ theta - y)[:, None]
    g_query = query_x * (query_x @ theta - query_y)[:, None]
    predicted = pairwise("influence", Preconditioner.fit(spectrum, damping).solve(g_query), g) / n

    def query_loss(at):
        return (query_x @ at - query_y) ** 2 / 2

    for i in range(n):
        without, extra = np.ones(n), np.ones(n)
        without[i], extra[i] = 1 - step, 1 + step
        change = (query_loss(ridge(x, y, penalty, without)) - query_loss(ridge(x, y, penalty, extra))) / (2 * step)
        np.testing.assert_allclose(change, predicted[:, i], rtol=1e-5, atol=1e-9)
    removed = np.array(
        [query_loss(ridge(x, y, penalty, 1.0 - (np.arange(n) == i))) - query_loss(theta) for i in range(n)]
    ).T
    assert np.corrcoef(removed.ravel(), predicted.ravel())[0, 1] > 0.95
