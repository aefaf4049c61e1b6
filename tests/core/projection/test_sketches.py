"""A projection is one linear map of whole gradients: by entries or by factors, for any batch."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Vectors, blocks, gram_squares, squares
from pipeline.core.projection import FITTED, METHODS, Projection, make
from pipeline.errors import ConfigError, LowlandError

ROWS = 4
SHAPES: dict[str, tuple[int, ...]] = {
    "linear.weight": (7, 6),
    "linear.bias": (7,),
    "conv.weight": (5, 3, 2, 2),
    "scale": (),
    "words.weight": (11, 4),
}
SIZE = sum(prod(shape) for shape in SHAPES.values())  # 154
SEEDED = [method for method in METHODS if method not in FITTED]
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]


def factors(positions: int, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> Tensor:
        return torch.randn(ROWS, positions, size, generator=generator, dtype=torch.float64)

    return {name: (draw(SHAPES[name][0]), draw(prod(SHAPES[name][1:]))) for name in MATRICES}


def gradients(seed: int = 0, rows: int = ROWS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(rows, *shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def flat(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([values[name].reshape(len(values[name]), -1) for name in SHAPES], 1)


def sketched(projection: Projection, values: dict[str, Tensor], dtype: torch.dtype = torch.float64) -> Tensor:
    sketch = projection.sketch(len(values["scale"]), dtype)
    for name in reversed(SHAPES):  # as they arrive going backward
        sketch.dense(name, values[name])
    return sketch.codes()


@pytest.mark.parametrize("positions", [1, 2, 40])
@pytest.mark.parametrize("method", SEEDED)
def test_factors_and_entries_give_the_same(method: str, positions: int) -> None:
    projection = make(method, SHAPES, 32, 3)
    values = gradients()
    pairs = factors(positions)
    for name, (output, input) in pairs.items():
        values[name] = torch.einsum("bto,bti->boi", output, input).reshape(ROWS, *SHAPES[name])
    by_entries, by_factors = (projection.sketch(ROWS, torch.float64) for _ in range(2))
    for name, value in values.items():
        by_entries.dense(name, value)
        by_factors.outer(name, *map(Vectors, pairs[name])) if name in pairs else by_factors.dense(name, value)
    assert by_entries.codes().shape == (ROWS, projection.dimension)
    torch.testing.assert_close(by_factors.codes(), by_entries.codes(), rtol=1e-10, atol=1e-10)
    exact = flat(values).square().sum(1)
    torch.testing.assert_close(by_entries.squared_norms(), exact, rtol=1e-12, atol=0)
    torch.testing.assert_close(by_factors.squared_norms(), exact, rtol=1e-10, atol=0)
    assert by_factors.squared_norms().dtype == torch.float64


@pytest.mark.parametrize("method", SEEDED)
def test_linear(method: str) -> None:
    projection = make(method, SHAPES, 32, 3)
    one, two = gradients(1), gradients(2)
    mixed = {name: one[name] - 3 * two[name] for name in SHAPES}
    torch.testing.assert_close(
        sketched(projection, mixed), sketched(projection, one) - 3 * sketched(projection, two), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("method", SEEDED)
def test_deterministic_and_independent_of_the_batch(method: str) -> None:
    values = gradients()
    codes = sketched(make(method, SHAPES, 32, 3), values)
    assert torch.equal(codes, sketched(make(method, SHAPES, 32, 3), values))
    alone = sketched(make(method, SHAPES, 32, 3), {name: value[2:3] for name, value in values.items()})
    torch.testing.assert_close(alone[0], codes[2], rtol=1e-12, atol=1e-12)
    other = sketched(make(method, SHAPES, 32, 4), values)
    assert torch.equal(codes, other) == (method == "identity")


@pytest.mark.parametrize("method", SEEDED)
def test_a_stored_state_gives_the_projection_back(method: str) -> None:
    projection = make(method, SHAPES, 32, 3)
    again = make(method, SHAPES, 32, 3, state=projection.state())
    assert projection.state() == {} and again.method == projection.method == method
    assert torch.equal(sketched(projection, gradients()), sketched(again, gradients()))
    with pytest.raises(ConfigError, match=f"expected no state for a {method} projection, got mean"):
        make(method, SHAPES, 32, 3, state={"mean": np.zeros(1)})


def test_sparse_with_several_nonzeros() -> None:
    from pipeline.core.projection.sjlt import SJLT

    x, y = gradients(1), gradients(1)
    true = flat(x).square().sum(1)
    found = []
    for seed in range(300):
        projection = SJLT.build(SHAPES, 41, seed, nonzeros=4)
        found.append((sketched(projection, x) * sketched(projection, y)).sum(1))
    values = torch.stack(found)
    assert ((values.mean(0) - true).abs() < 4 * values.std(0) / 300**0.5).all()
    one = {name: torch.zeros(1, *shape, dtype=torch.float64) for name, shape in SHAPES.items()}
    one["linear.bias"][0, 3] = 2
    codes = sketched(SJLT.build(SHAPES, 41, 0, nonzeros=4), one)
    assert codes.count_nonzero() == 4 and codes.abs().max() == 1
    with pytest.raises(ConfigError, match="expected 1 to 41 non-zeros a coordinate, got 42"):
        SJLT.build(SHAPES, 41, 0, nonzeros=42)


def test_dmin_keeps_groups_of_equal_size() -> None:
    projection = make("dmin", SHAPES, 50, 0)  # D = 200, m = 4
    units = torch.eye(SIZE, dtype=torch.float64)
    parts = dict(zip(SHAPES, units.split([prod(s) for s in SHAPES.values()], 1), strict=True))
    matrix = sketched(projection, {name: part.reshape(SIZE, *SHAPES[name]) for name, part in parts.items()})
    assert matrix.abs().sum(1).tolist() == [1] * SIZE
    assert matrix.abs().sum(0).max() <= 4 and matrix.abs().sum(0).sum() == SIZE


@pytest.mark.parametrize("method", ["sjlt", "dmin", "rademacher", "tensorsketch", "identity"])
@pytest.mark.parametrize("dimension", [SIZE, SIZE + 1])
def test_no_compression_where_there_is_none(method: str, dimension: int) -> None:
    projection = make(method, SHAPES, dimension, 0)
    assert (projection.method, projection.dimension, projection.names) == ("identity", SIZE, tuple(SHAPES))
    assert torch.equal(sketched(projection, gradients()), flat(gradients()))


@pytest.mark.parametrize("cache", [0, 100, 2**20])
def test_cached_signs_are_the_drawn_ones(cache: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.core.projection import rademacher

    monkeypatch.setattr(rademacher, "BLOCK", 8)
    projection = rademacher.Rademacher(SHAPES, 20, 1, cache_bytes=cache)
    first = sketched(projection, gradients())
    kept = sum(bits.nbytes for bits in projection._cache.values())
    assert kept <= cache and (kept == 0) == (cache == 0)
    assert torch.equal(first, sketched(projection, gradients()))
    assert torch.equal(first, sketched(rademacher.Rademacher(SHAPES, 20, 1), gradients()))


@pytest.mark.parametrize("dimension", [5, 6, 17, 64, 100, 10_000])
def test_kronecker_takes_the_largest_rank_that_fits(dimension: int) -> None:
    from pipeline.core.projection.kronecker import Kronecker, codes_of_rank

    projection = make("kronecker", SHAPES, dimension, 0)
    assert isinstance(projection, Kronecker)
    assert projection.dimension == codes_of_rank(SHAPES, projection.rank) == projection.sketch(1)._codes().shape[1]
    assert projection.dimension <= dimension
    assert codes_of_rank(SHAPES, projection.rank + 1) > dimension or projection.dimension == SIZE


def test_kronecker_with_whole_sides_is_exact() -> None:
    projection = make("kronecker", SHAPES, 10_000, 0)
    assert torch.equal(sketched(projection, gradients()), flat(gradients()))


@pytest.mark.parametrize(("method", "dimension"), [("kronecker", 4), ("tensorsketch", 16)])
def test_unbiased_for_square_symmetric_gradients(method: str, dimension: int) -> None:
    """With the same signs and buckets on both sides the expected product would be larger than 6."""
    shapes = {"weight": (6, 6)}
    gradient = torch.eye(6, dtype=torch.float64)[None]
    found = []
    for seed in range(400):
        sketch = make(method, shapes, dimension, seed).sketch(1, torch.float64)
        sketch.dense("weight", gradient)
        found.append(sketch.codes().square().sum())
    values = torch.stack(found)
    error = values.std() / 400**0.5
    assert (values.mean() - 6).abs() < 4 * error and error < 0.5


def test_parts_of_blocks_have_the_signs_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.core.projection import rademacher

    monkeypatch.setattr(rademacher, "BLOCK", 8)
    projection = rademacher.Rademacher(SHAPES, 20, 1)
    whole = torch.cat([signs for _, _, signs in projection.signs("linear.weight", 0, 42)])
    parts = list(projection.signs("linear.weight", 3, 21))
    assert [part[:2] for part in parts] == [(3, 8), (8, 16), (16, 21)]
    assert torch.equal(torch.cat([signs for _, _, signs in parts]), whole[3:21])


def test_messages() -> None:
    with pytest.raises(ConfigError, match="expected a projection method among identity, sjlt, .*, got sjtl"):
        make("sjtl", SHAPES, 8, 0)
    with pytest.raises(ConfigError, match="expected a projection dimension of at least 1, got 0"):
        make("sjlt", SHAPES, 0, 0)
    with pytest.raises(ConfigError, match="expected a dimension of at least 1 and some parameters, got 8 and 0"):
        make("sjlt", {}, 8, 0)
    with pytest.raises(ConfigError, match="at least one a parameter, 5, for a kronecker projection, got 4"):
        make("kronecker", SHAPES, 4, 0)
    sketch = make("sjlt", SHAPES, 8, 0).sketch(ROWS, torch.float64)
    values = gradients()
    sketch.dense("scale", values["scale"])
    with pytest.raises(LowlandError, match="expected every parameter once, got scale a second time"):
        sketch.dense("scale", values["scale"])
    with pytest.raises(LowlandError, match="expected every parameter once, got other though it is not projected"):
        sketch.outer("other", *map(Vectors, factors(1)[MATRICES[0]]))
    with pytest.raises(LowlandError, match="expected every parameter once, got nothing of conv.weight, linear.bias"):
        sketch.codes()


@pytest.mark.parametrize("positions", [1, 3, 30])
@pytest.mark.parametrize("block_bytes", [1, 300, 10**6])
def test_blocks_are_the_gradient_in_pieces(positions: int, block_bytes: int) -> None:
    output, input = factors(positions)["conv.weight"]
    true = torch.einsum("bto,bti->boi", output, input).flatten(1)
    pieces = torch.empty_like(true)
    for start, block in blocks(Vectors(output), Vectors(input), block_bytes):
        pieces[:, start : start + block.shape[1]] = block
    torch.testing.assert_close(pieces, true)
    for measured in (gram_squares(Vectors(output), Vectors(input)), squares(true)):
        torch.testing.assert_close(measured, true.square().sum(1))


@pytest.mark.parametrize("method", SEEDED)
def test_dtype_of_codes(method: str) -> None:
    projection = make(method, SHAPES, 32, 3)
    single = sketched(projection, {n: v.float() for n, v in gradients().items()}, torch.float32)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sketched(projection, gradients()), rtol=1e-4, atol=1e-4)
