"""Estimated squared norms: right on average over draws of what is random in them, with no more error than is said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Vectors
from pipeline.core.projection import METHODS, Projection, Settings, fitter, make, norms, tensorsketch
from pipeline.core.projection.base import Norms
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.streams import stream

SHAPES: dict[str, tuple[int, ...]] = {"linear.weight": (30, 24), "bias": (30,), "conv.weight": (20, 6, 3)}
SIZE = sum(prod(shape) for shape in SHAPES.values())
MATRICES = [name for name, shape in SHAPES.items() if len(shape) > 1]
ESTIMATED = ["eigenbasis", "kronecker_pca", "kronecker", "tensorsketch"]
ENTRIES = ["sjlt", "dmin", "rademacher", "identity"]
DRAWS = 200
MANY = 40  # positions: more than are exact by Gram matrices
SCALES = [1.0, 1e-6, 1e4, 1.0, 1.0, 30.0]
Sample = dict[str, tuple[Tensor, ...]]


def sample(positions: int, seed: int = 1) -> Sample:
    """Rows of several norms; the fourth of rank one, the worst case, the fifth of one parameter only."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor(SCALES, dtype=torch.float64)

    def draw(*size: int) -> Tensor:
        return torch.randn(len(SCALES), *size, generator=generator, dtype=torch.float64)

    found: Sample = {}
    for name, shape in SHAPES.items():
        outputs, inputs = as_matrix(shape)
        if name not in MATRICES:
            found[name] = (scale.unsqueeze(1) * draw(*shape),)
            continue
        output, input = scale.view(-1, 1, 1) * draw(positions, outputs), draw(positions, inputs)
        for side in (output, input):
            side[3] = side[3, :1].clone()
        if name == "conv.weight":
            output[4] = 0
        found[name] = (output, input)
    return found


def true_squares(values: Sample) -> Tensor:
    parts = [torch.einsum("bto,bti->boi", *own) if len(own) == 2 else own[0] for own in values.values()]
    return torch.cat([part.flatten(1) for part in parts], 1).square().sum(1)


def measured(projection: Projection, values: Sample, kind: Norms = "estimated") -> tuple[Tensor, Tensor]:
    sketch = projection.sketch(len(SCALES), torch.float64, norms=kind)
    for name, parts in values.items():
        sketch.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sketch.dense(name, parts[0])
    return sketch.squared_norms(), sketch.squared_norm_errors()


def fitted(method: str) -> Projection:
    work = fitter(method, SHAPES, 40, 0, Settings(basis=4))
    while not work.done:
        with work.batch(len(SCALES), torch.float64) as sink:
            for name, parts in sample(3, seed=2).items():
                sink.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sink.dense(name, parts[0])
        work.end_pass()
    return work.projection()


def draws(method: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Projection]:
    """The same projection with other probes; or another one where codes themselves are the estimate."""
    if method in ("kronecker", "tensorsketch"):
        yield from (make(method, SHAPES, 40, seed) for seed in range(DRAWS))
        return
    projection = fitted(method)
    for draw in range(DRAWS):
        monkeypatch.setattr(norms, "stream", lambda _, purpose, name, draw=draw: stream(draw, purpose, name))
        yield make(method, SHAPES, projection.dimension, 0, projection.state())


def by_transforms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entries would have exact norms."""
    monkeypatch.setattr(tensorsketch, "_entries_are_cheaper", lambda *_: False)


@pytest.mark.parametrize("method", ESTIMATED)
def test_estimates_are_unbiased_and_their_errors_are_bounds(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    by_transforms(monkeypatch)
    values = sample(MANY)
    found = [measured(projection, values) for projection in draws(method, monkeypatch)]
    squares, errors = (torch.stack(parts) for parts in zip(*found, strict=True))
    true = true_squares(values)
    assert (squares.std(0) > 0).all() and (squares > 0).all()
    assert ((squares.mean(0) - true).abs() < 4 * squares.std(0) / DRAWS**0.5).all()
    assert (squares.std(0) <= 1.1 * errors.mean(0)).all()
    assert (errors.mean(0) < 3 * squares.std(0) + 0.1 * true)[3]  # where the bound is reached it is not far off


@pytest.mark.parametrize("method", ["eigenbasis", "kronecker_pca"])
def test_only_what_bases_leave_out_is_guessed(method: str) -> None:
    work = fitter(method, SHAPES, SIZE, 0, Settings(basis=99))
    while not work.done:
        work.end_pass()
    squares, errors = measured(work.projection(), sample(MANY))
    torch.testing.assert_close(squares, true_squares(sample(MANY)), rtol=1e-10, atol=0)
    assert (errors < 1e-10 * squares).all()


def exact_cases() -> list[tuple[str, int, Norms]]:
    estimated: list[tuple[str, int, Norms]] = [(method, MANY, "exact") for method in METHODS]
    estimated += [(method, positions, "estimated") for method in METHODS for positions in (1, 2, 16)]
    return estimated + [(method, MANY, "estimated") for method in ENTRIES]


@pytest.mark.parametrize(("method", "positions", "kind"), exact_cases())
def test_exact_where_it_costs_little_or_is_asked_for(
    method: str, positions: int, kind: Norms, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = sample(positions)
    build: Callable[[], Projection] = {
        "eigenbasis": lambda: fitted("eigenbasis"), "kronecker_pca": lambda: fitted("kronecker_pca")
    }.get(method, lambda: make(method, SHAPES, 40, 0))  # fmt: skip
    for way in (lambda: None, lambda: by_transforms(monkeypatch)):
        way()
        squares, errors = measured(build(), values, kind)
        torch.testing.assert_close(squares, true_squares(values), rtol=1e-10, atol=0)
        assert errors.tolist() == [0] * len(SCALES)


def test_tensor_sketches_have_exact_norms_where_entries_are_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    projection, values = make("tensorsketch", SHAPES, 40, 0), sample(MANY)
    monkeypatch.setattr(tensorsketch, "_entries_are_cheaper", lambda *_: True)
    squares, errors = measured(projection, values)
    torch.testing.assert_close(squares, true_squares(values), rtol=1e-10, atol=0)
    assert errors.tolist() == [0] * len(SCALES)
