"""LoGra with principal components against dense rotations; products of codes are compared, for signs of eigenvectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Vectors
from pipeline.core.projection import Projection, Settings, fitter, make
from pipeline.core.projection.kronecker import as_matrix, codes_of_rank
from pipeline.errors import ConfigError, LowlandError
from tests.oracles_eigenbasis import rotated_rows

SHAPES: dict[str, tuple[int, ...]] = {"linear.weight": (7, 6), "bias": (7,), "conv.weight": (5, 3, 2, 2), "scale": ()}
SIZE = 42 + 7 + 60 + 1
Sample = dict[str, tuple[Tensor, ...]]


def sample(rows: int, seed: int = 0, positions: int = 3) -> Sample:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        decay = 0.7 ** torch.arange(size[-1], dtype=torch.float64) if size else torch.ones(())
        return torch.randn(rows, *size, generator=generator, dtype=torch.float64) * decay

    return {
        "linear.weight": (draw(1, 7), draw(1, 6)),
        "bias": (draw(7),),
        "conv.weight": (draw(positions, 5), draw(positions, 12)),
        "scale": (draw(),),
    }


def count(values: Sample) -> int:
    return len(values["scale"][0])


def dense(values: Sample) -> dict[str, Tensor]:
    return {
        name: (torch.einsum("bto,bti->boi", *parts) if len(parts) == 2 else parts[0]).reshape(
            count(values), *as_matrix(SHAPES[name])
        )
        for name, parts in values.items()
    }


def feed(sink, values: Sample) -> None:
    for name, parts in reversed(values.items()):
        sink.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sink.dense(name, parts[0])


def fitted(values: Sample, dimension: int, batch: int = 1000) -> Projection:
    work = fitter("kronecker_pca", SHAPES, dimension, 0, Settings())
    while not work.done:
        for start in range(0, count(values), batch):
            part = {name: tuple(side[start : start + batch] for side in sides) for name, sides in values.items()}
            with work.batch(count(part), torch.float64) as sink:
                feed(sink, part)
        work.end_pass()
    return work.projection()


def codes(projection: Projection, values: Sample) -> Tensor:
    sketch = projection.sketch(count(values), torch.float64)
    feed(sketch, values)
    return sketch.codes()


def products(values: Tensor) -> Tensor:
    return values @ values.T


@pytest.mark.parametrize(("dimension", "rank"), [(4, 1), (11, 2), (22, 3), (21, 2), (SIZE, 12), (10_000, 12)])
def test_codes_are_the_leading_coordinates_of_every_parameter(dimension: int, rank: int) -> None:
    values, other = sample(40), sample(9, seed=1)
    projection = fitted(values, dimension)
    assert projection.method == "kronecker_pca" and projection.dimension == codes_of_rank(SHAPES, rank) <= dimension
    factors = {name: parts for name, parts in values.items() if len(parts) == 2}
    expected = rotated_rows(dense(values), factors, rank)
    assert expected.shape[1] == projection.dimension
    torch.testing.assert_close(products(codes(projection, values)), products(expected), rtol=1e-9, atol=1e-9)
    if projection.dimension == SIZE:
        whole = torch.cat([part.flatten(1) for part in dense(other).values()], 1)
        torch.testing.assert_close(products(codes(projection, other)), products(whole), rtol=1e-9, atol=1e-9)


def test_codes_are_rotated_gradients_in_the_order_of_the_parameters() -> None:
    values = sample(9, seed=1)
    projection = fitted(sample(40), 22)
    bases, start, expected = torch.from_numpy(projection.state()["bases"]), 0, []
    ranks = projection.state()["ranks"]
    assert ranks.tolist() == [[3, 3], [1, 3], [3, 3], [1, 1]]
    for gradient, own in zip(dense(values).values(), ranks.tolist(), strict=True):
        sides = []
        for size, rank in zip(gradient.shape[1:], own, strict=True):
            sides.append(bases[start : start + size * rank].reshape(size, rank))
            start += size * rank
        expected.append((sides[0].T @ gradient @ sides[1]).flatten(1))
    torch.testing.assert_close(codes(projection, values), torch.cat(expected, 1), rtol=1e-12, atol=1e-12)


def test_factors_and_entries_give_the_same() -> None:
    projection, values = fitted(sample(40), 22), sample(9, seed=1, positions=40)
    by_entries = projection.sketch(9, torch.float64)
    for name, gradient in dense(values).items():
        by_entries.dense(name, gradient.reshape(9, *SHAPES[name]))
    torch.testing.assert_close(by_entries.codes(), codes(projection, values), rtol=1e-10, atol=1e-10)


def test_it_keeps_more_than_random_factors() -> None:
    values, other = sample(40), sample(200, seed=1)
    whole = torch.cat([part.flatten(1) for part in dense(other).values()], 1)

    def error(projection: Projection) -> float:
        return float((products(codes(projection, other)) - products(whole)).norm())

    assert error(fitted(values, 22)) < 0.5 * error(make("kronecker", SHAPES, 22, 0))


def test_neither_batches_nor_order_of_the_sample_matter() -> None:
    values, other = sample(40), sample(9, seed=1)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = {name: tuple(part[order] for part in parts) for name, parts in values.items()}
    expected = codes(fitted(values, 22), other)
    torch.testing.assert_close(codes(fitted(shuffled, 22, batch=7), other), expected, rtol=1e-8, atol=1e-8)


def test_a_stored_state_gives_the_projection_back() -> None:
    projection, other = fitted(sample(40), 22), sample(9, seed=1)
    state = {name: array.copy() for name, array in projection.state().items()}
    again = make("kronecker_pca", SHAPES, projection.dimension, 0, state)
    assert set(state) == {"ranks", "bases"} and again.dimension == 22
    assert torch.equal(codes(again, other), codes(projection, other))


def test_messages() -> None:
    with pytest.raises(
        ConfigError, match="expected a dimension of at least one a parameter, 4, for a kronecker_pca .*3"
    ):
        fitter("kronecker_pca", SHAPES, 3, 0)
    work = fitter("kronecker_pca", SHAPES, 21, 0)
    with pytest.raises(LowlandError, match="expected further passes over the sample before there is a projection"):
        work.projection()
    work.end_pass()
    for call in (work.end_pass, work.batch(3).__enter__):
        with pytest.raises(LowlandError, match="expected no further pass over the sample, got"):
            call()
    with pytest.raises(ConfigError, match="expected a fitted state for a kronecker_pca projection, got none: fit it"):
        make("kronecker_pca", SHAPES, 21, 0)
    state = work.projection().state()
    with pytest.raises(ConfigError, match="expected a fitted state for a kronecker_pca projection, got no bases: fit"):
        make("kronecker_pca", SHAPES, 21, 0, {"ranks": state["ranks"]})
    with pytest.raises(
        ConfigError, match="expected a fitted state of 1 parameters and .* bases, got 4 and .*fit it anew"
    ):
        make("kronecker_pca", {"linear.weight": (7, 6)}, 21, 0, state)
    with pytest.raises(ConfigError, match="expected a fitted state of 4 parameters .*fit it anew"):
        make("kronecker_pca", SHAPES, 21, 0, {**state, "bases": np.zeros(3)})
