"""The turn: the product of its reflections, orthogonal, and on the leading eigenvectors of its sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.core.projection import Projection, make, turned
from pipeline.core.projection.reflections import OPERATIONS, ROWS_EACH, compact, count_of, fit_reflectors
from tests.core.projection.test_sketches import ROWS, SHAPES, gradients

K, R = 40, 7


def turn_of(reflectors: np.ndarray) -> np.ndarray:
    """H_1 ... H_r, one reflection after the other, float64."""
    product = np.eye(len(reflectors))
    for y in reflectors.astype(np.float64).T:
        if y.any():
            product = product @ (np.eye(len(y)) - 2 * np.outer(y, y) / (y @ y))
    return product


def turn(reflectors: np.ndarray, rows: np.ndarray) -> np.ndarray:
    left, right = compact(reflectors)
    return rows - rows @ left @ right


def units_of(rng, deviations: np.ndarray, basis: np.ndarray, count: int = 400) -> np.ndarray:
    rows = (rng.normal(size=(count, len(deviations))) * deviations) @ basis.T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def basis(rng):
    return np.linalg.qr(rng.normal(size=(K, K)))[0]


def test_the_compact_form_is_the_product_of_the_reflections(rng):
    reflectors = rng.normal(size=(K, R)).astype(np.float32)
    reflectors[:, 3] = 0
    rows = rng.normal(size=(9, K)).astype(np.float32)
    expected = rows.astype(np.float64) @ turn_of(reflectors)
    np.testing.assert_allclose(turn(reflectors, rows), expected, atol=2e-6)


def test_a_turn_keeps_inner_products(rng, basis):
    reflectors = fit_reflectors(units_of(rng, np.geomspace(1, 1e-3, K), basis))
    rows = rng.normal(size=(20, K))
    found = turn(reflectors, rows)
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=1e-10)
    assert np.abs(found - rows).max() > 0.1


def test_the_first_axes_are_the_leading_eigenvectors_and_the_rest_is_orthogonal_to_them(rng, basis):
    units = units_of(rng, np.geomspace(1, 1e-3, K), basis)
    reflectors = fit_reflectors(units)
    count = count_of(*units.shape)
    assert reflectors.shape == (K, count) and count == K // 2
    vectors = np.linalg.eigh(units.T @ units)[1][:, ::-1][:, :count]
    found = turn_of(reflectors)
    np.testing.assert_allclose(np.abs((vectors * found[:, :count]).sum(0)), 1, atol=1e-5)
    moments = found.T @ units.T @ units @ found
    scale = np.sqrt(np.diag(moments))
    cross = moments / np.outer(scale, scale)
    assert np.abs(cross[:count] - np.eye(K)[:count]).max() < 1e-3


def test_directions_that_are_on_their_axes_stay_there(rng):
    units = np.eye(K)[np.repeat(np.arange(K), np.arange(K, 0, -1))]
    found = turn_of(fit_reflectors(units))
    np.testing.assert_allclose(np.abs(found), np.eye(K), atol=1e-6)


def test_a_sample_of_few_directions_gives_no_more(rng):
    units = np.repeat(np.linalg.qr(rng.normal(size=(K, 3)))[0].T, 30, axis=0)
    assert fit_reflectors(units).shape == (K, 3)
    assert fit_reflectors(np.zeros((0, K))).shape == (K, 0)
    assert fit_reflectors(np.ones((50, 1))).shape == (1, 0)


def test_the_cost_of_a_row_is_bounded_and_so_is_what_a_sample_can_say():
    assert count_of(10**6, 4096) * 4096 == OPERATIONS
    assert count_of(10, 4096) == 10 // ROWS_EACH
    assert count_of(10**6, 12) == 6
    assert count_of(10**6, OPERATIONS + 1) == 0


def projected(projection: Projection) -> np.ndarray:
    sketch = projection.sketch(ROWS, torch.float64)
    for name, values in gradients().items():
        sketch.dense(name, values)
    return sketch.codes().numpy()


def test_a_turned_projection_is_the_projection_and_the_turn(rng):
    inner = make("sjlt", SHAPES, 32, 3)
    sample = rng.normal(size=(200, 32)) * np.geomspace(1, 1e-2, 32)
    projection, codes = turned(inner, sample.astype(np.float32))
    np.testing.assert_allclose(codes, sample @ turn_of(projection.state()["reflectors"]), atol=1e-5)
    expected = projected(inner)
    found = projected(projection)
    np.testing.assert_allclose(found, expected @ turn_of(projection.state()["reflectors"]), atol=1e-12)
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, rtol=1e-12)
    assert np.abs(found - expected).max() > 0.1
    assert (projection.method, projection.dimension, projection.shapes) == ("sjlt", 32, inner.shapes)
    again = make("sjlt", SHAPES, 32, 3, projection.state())
    np.testing.assert_array_equal(projected(again), found)


def test_norms_are_those_of_the_projection(rng):
    inner = make("kronecker", SHAPES, 32, 3)
    sketches = [
        each.sketch(ROWS, torch.float64) for each in (inner, turned(inner, rng.normal(size=(99, inner.dimension)))[0])
    ]
    for name, values in gradients().items():
        for sketch in sketches:
            sketch.dense(name, values)
    for measure in ("squared_norms", "squared_norm_errors"):
        torch.testing.assert_close(*[getattr(sketch, measure)() for sketch in sketches], rtol=0, atol=0)


def test_rows_without_a_direction_count_for_nothing_and_few_rows_turn_nothing(rng):
    inner, rows = make("sjlt", SHAPES, 32, 3), rng.normal(size=(100, 32))
    useless = np.array([[value] * 32 for value in (0.0, np.nan, np.inf)])
    expected, found = (turned(inner, each)[0].state()["reflectors"] for each in (rows, np.concatenate([rows, useless])))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert turned(inner, rows[:3])[0] is inner
