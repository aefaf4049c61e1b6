"""A factor against `Vectors` of its values: what it is asked for, and codes and norms under a projection."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from pipeline.core.factors import Factor, Vectors
from pipeline.core.projection import FITTED, Projection, Settings, fitter, make
from pipeline.core.projection.base import Norms

DIMENSION = 12


class Gathered:
    """The vectors that a factor feeds to a second moment."""

    def __init__(self, size: int) -> None:
        """Of n = `size` numbers."""
        self.moment = torch.zeros(size, size, dtype=torch.float64)
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Vectors [m, n]."""
        self.moment += vectors.T @ vectors
        self.count += len(vectors)

    def add_units(self, indices: Tensor) -> None:
        """Unit vectors [m]."""
        self.add(torch.eye(len(self.moment), dtype=torch.float64)[indices])


def assert_same_vectors(factor: Factor) -> None:
    """Everything that a factor is asked for equals what `Vectors` of its values say."""
    values = factor.values()
    plain = Vectors(values)
    assert factor.shape == tuple(values.shape) == plain.shape and factor.dtype == values.dtype == torch.float64
    rows, positions, size = factor.shape
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(size, 5, generator=generator, dtype=torch.float64)
    other = torch.randn(rows, positions, 3, generator=generator, dtype=torch.float64)
    close(factor.rotated(basis), values @ basis)
    assert factor.rotated(basis.float()).dtype == torch.float32
    close(factor.gram(), values @ values.mT)
    start, stop = size // 3, size - 1
    found, expected = (torch.full((rows, stop - start, 3), torch.nan, dtype=torch.float64) for _ in range(2))
    factor.product(other, start, stop, found)
    plain.product(other, start, stop, expected)
    close(found, expected)
    close(expected, values[:, :, start:stop].mT @ other)
    moments = Gathered(size)
    factor.feed(moments, positions)
    assert moments.count == rows * positions
    close(moments.moment, torch.einsum("btn,btm->nm", values, values))


def assert_same_under_a_projection(method: str, output: Factor, input: Factor) -> None:
    """Codes, norms and their errors from factors equal those from `Vectors` of their values, however norms are had."""
    shapes = {"weight": (output.shape[2], input.shape[2])}
    plain = [Vectors(factor.values()) for factor in (output, input)]
    projection = built(method, shapes, *plain)
    kinds: tuple[Norms, ...] = ("exact", "estimated")
    for norms in kinds:
        found, expected = (projection.sketch(output.shape[0], torch.float64, norms=norms) for _ in range(2))
        found.outer("weight", output, input)
        expected.outer("weight", *plain)
        close(found.codes(), expected.codes())
        close(found.squared_norms(), expected.squared_norms())
        close(found.squared_norm_errors(), expected.squared_norm_errors())
    if method in FITTED:
        state = built(method, shapes, output, input).state()
        assert (
            state.keys() == projection.state().keys()
            and state["ranks"].tolist() == projection.state()["ranks"].tolist()
        )
        again = make(method, shapes, projection.dimension, 0, state).sketch(output.shape[0], torch.float64)
        again.outer("weight", output, input)
        close(again.codes().square().sum(1), expected.codes().square().sum(1))


def built(method: str, shapes: dict[str, tuple[int, ...]], output: Factor, input: Factor) -> Projection:
    """A projection, fitted to these rows where it is to be fitted."""
    work = fitter(method, shapes, min(DIMENSION, prod(shapes["weight"])), 0, Settings(basis=4))
    while not work.done:
        with work.batch(output.shape[0], torch.float64) as sink:
            sink.outer("weight", output, input)
        work.end_pass()
    return work.projection()


def close(found: Tensor, expected: Tensor) -> None:
    """Equal to 1e-10 of the largest number."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * largest)
