"""Random sketches against what their docstrings promise: inner products are right on average, with that variance."""

from __future__ import annotations

from math import inf, prod

import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Vectors
from pipeline.core.projection import Projection, make, tensorsketch
from pipeline.core.projection.kronecker import as_matrix
from tests.oracles_sketches import entry_variance, kronecker_variance, tensor_variance, tensor_variance_of_all

SHAPES: dict[str, tuple[int, ...]] = {
    "linear.weight": (7, 6),
    "linear.bias": (7,),
    "conv.weight": (5, 3, 2, 2),
    "scale": (),
    "words.weight": (11, 4),
}
SIZE = sum(prod(shape) for shape in SHAPES.values())  # 154
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]
RANDOM = ["sjlt", "dmin", "rademacher", "kronecker", "tensorsketch"]
DIMENSION = 77  # half of P: DMin's variance is then half of the others'
SEEDS = 200
PAIRS = [(1.0, 1.0), (1e-6, 0.7), (1e3, 0.2), (50.0, 0.0), (1e-3, -0.6), (20.0, -1.0)]  # |y| / |x| about, cosine about
Rows = dict[str, tuple[Tensor, ...]]


def pairs(positions: int) -> Rows:
    """Rows x of all pairs, then rows y: matrices as factors, the others materialised.

    y is a multiple of x, turned by adding gradients of other rows; factors of one position are turned side by side.
    """
    generator = torch.Generator().manual_seed(positions)
    scale, cosine = (torch.tensor(values, dtype=torch.float64) for values in zip(*PAIRS, strict=True))

    def turned(*size: int, scale: Tensor = scale) -> Tensor:
        first, other = torch.randn(2, len(PAIRS), *size, generator=generator, dtype=torch.float64)
        first += 1  # of one sign mostly: sums without random signs show
        weights = [v.view(-1, *[1] * len(size)) for v in (scale, cosine, (1 - cosine.square()).sqrt())]
        return torch.cat([first, weights[0] * (weights[1] * first + weights[2] * other)])

    found: Rows = {}
    for name, shape in SHAPES.items():
        outputs, inputs = as_matrix(shape)
        if name in MATRICES:
            inputs_twice = 1 + torch.randn(len(PAIRS), positions, inputs, generator=generator, dtype=torch.float64)
            found[name] = (turned(positions, outputs), inputs_twice.repeat(2, 1, 1))
        else:
            found[name] = (turned(*shape),)
    return found


def matrices(values: Rows) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The gradients of x and of y as [pairs, O, I]."""
    whole = {}
    for name, parts in values.items():
        gradient = torch.einsum("bto,bti->boi", *parts) if len(parts) == 2 else parts[0]
        whole[name] = gradient.reshape(2 * len(PAIRS), *as_matrix(SHAPES[name]))
    return tuple({name: value[half] for name, value in whole.items()} for half in halves())  # type: ignore[return-value]


def halves() -> tuple[slice, slice]:
    return slice(None, len(PAIRS)), slice(len(PAIRS), None)


def flat(parts: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts.values()], 1)


def inner_products(projection: Projection, values: Rows) -> Tensor:
    """Inner products of compressed pairs, [pairs]."""
    sketch = projection.sketch(2 * len(PAIRS), torch.float64)
    for name, parts in values.items():
        sketch.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sketch.dense(name, parts[0])
    first, second = (sketch.codes()[half] for half in halves())
    return (first * second).sum(1)


def predicted_variance(method: str, values: Rows) -> Tensor:
    """What the docstrings say, with all their terms."""
    x, y = matrices(values)
    if method == "kronecker":
        blocks = make(method, SHAPES, DIMENSION, 0).blocks  # type: ignore[attr-defined]
        found = torch.zeros(len(PAIRS), dtype=torch.float64)
        for name, block in blocks.items():
            sides = zip((block.rows, block.columns), block.reduced, strict=True)
            found += kronecker_variance(
                x[name], y[name], *(inf if factor is None else small for factor, small in sides)
            )
        return found
    if method == "tensorsketch":
        return tensor_variance_of_all(x, y, DIMENSION)
    group = -(-SIZE // DIMENSION)
    share = (group - 1) / (group * DIMENSION - 1) if method == "dmin" else 1 / DIMENSION
    return entry_variance(flat(x), flat(y), share)


@pytest.mark.parametrize("positions", [1, 20])
@pytest.mark.parametrize("method", RANDOM)
def test_inner_products_are_unbiased_with_the_predicted_variance(method: str, positions: int) -> None:
    values = pairs(positions)
    found = torch.stack([inner_products(make(method, SHAPES, DIMENSION, seed), values) for seed in range(SEEDS)])
    x, y = (flat(part) for part in matrices(values))
    true, variance = (x * y).sum(1), predicted_variance(method, values)
    assert ((found.mean(0) - true).abs() < 4 * (variance / SEEDS).sqrt()).all()
    assert ((variance / SEEDS).sqrt() < 0.15 * x.norm(dim=1) * y.norm(dim=1)).all()  # or the line above says nothing
    assert_variance(found, variance)
    if method == "tensorsketch" and positions == 1:  # a count sketch's alone would be too small for rank one
        with pytest.raises(AssertionError):
            assert_variance(found, entry_variance(x, y, 1 / DIMENSION))


def assert_variance(found: Tensor, expected: Tensor) -> None:
    """Sample variances [draws, pairs] agree with the expected within four of their own standard errors, and on average.

    The pairs' errors are not independent, so that their mean is allowed as much as the mean of their errors.
    """
    deviations = (found - found.mean(0)).square() / expected
    ratios, errors = deviations.mean(0), deviations.std(0) / len(found) ** 0.5
    assert ((ratios - 1).abs() < 4 * errors).all(), ratios
    assert (ratios.mean() - 1).abs() < 2 * errors.mean(), ratios
    assert errors.mean() < 0.2  # or the lines above say nothing


@pytest.mark.parametrize("size", [1, 4, 5])
def test_tensor_sketch_of_few_numbers(size: int) -> None:
    """Where 1 / K^2 counts: rank one, its variance (6 + 4 / K) / K but for the diagonals; even and odd K differ."""
    shapes, draws = {"weight": (12, 10)}, 1500
    generator = torch.Generator().manual_seed(0)
    output, input = (torch.randn(1, 1, n, generator=generator, dtype=torch.float64) for n in (12, 10))
    found = []
    for seed in range(draws):
        sketch = make("tensorsketch", shapes, size, seed).sketch(1, torch.float64)
        sketch.outer("weight", Vectors(output), Vectors(input))
        found.append(sketch.codes().square().sum(1))
    squares = torch.stack(found)
    gradient = output.mT @ input
    true = gradient.square().sum()
    variance = tensor_variance(gradient, gradient, size)
    assert variance < tensorsketch.relative_variance(size) * true**2
    assert (squares.mean() - true).abs() < 4 * (variance / draws).sqrt()
    deviations = (squares - squares.mean()).square()
    assert (deviations.mean() - variance).abs() < 4 * deviations.std() / draws**0.5 < 0.8 * variance
