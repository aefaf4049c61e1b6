"""K-FAC (Martens and Grosse, ICML 2015) and EK-FAC (George et al., NeurIPS 2018), from the hook engine's factors.

A layer's gradient is G = sum over t of o_t i_t^T, [O, I]. With A = E[sum_t i i^T], S = E[mean_t o o^T] and their
eigenbases Q_A, Q_S, the Fisher matrix of the layer is taken to be diagonal in these bases:

    K-FAC    Lambda = eigenvalues of S x eigenvalues of A
    EK-FAC   Lambda = E[(Q_S^T G Q_A)^2], which is the best diagonal there
    u        Q_S [(Q_S^T V Q_A) / (Lambda + lambda)] Q_A^T,   lambda = damping x mean of Lambda, layer by layer
    S        g^T (C + lambda)^-1 g = sum over layers of sum (Q_S^T G Q_A)^2 / (Lambda + lambda)
    W        g^T (C + lambda)^-1 C (C + lambda)^-1 g, likewise with Lambda / (Lambda + lambda)^2

Parameters that arrive written out (biases, scales) have a block of their own where they are short, else a diagonal.
Expectations are over rows with their own labels: the empirical Fisher matrix, as everywhere here; Grosse et al. (2023,
arXiv 2308.03296) draw labels from the model. Layers are independent of each other, which CG does not assume.
Letters: B rows, T positions, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from pipeline.core.capture.engine import Engine
from pipeline.core.factors import Factor
from pipeline.errors import ConfigError

LONGEST = 4096
"""Numbers of a side at most: an eigenbasis of it is a matrix."""
BLOCK = 1024
"""Numbers of a parameter that gets a block of its own."""
BLOCK_BYTES = 2**25
"""Of gradients written out at a time."""


@dataclass(frozen=True)
class Layer:
    """What is known of a parameter: bases of its two sides, and the diagonal between them.

    Attributes:
        output: Q_S, [O, O].
        input: Q_A, [I, I]; [1, 1] of a block; None of a diagonal, which turns nothing.
        scales: Lambda, [O, I].
    """

    output: Tensor | None
    input: Tensor | None
    scales: Tensor

    def solve(self, vector: Tensor, damping: float) -> Tensor:
        """u for v, both [O I]."""
        matrix = vector.reshape(self.scales.shape)
        solved = _turned(matrix, self.output, self.input) * self.weights(damping)
        if self.output is not None and self.input is not None:
            solved = self.output @ solved @ self.input.T
        return solved.reshape(-1)

    def weights(self, damping: float) -> Tensor:
        """1 / (Lambda + lambda), [O, I]."""
        return 1 / (self.scales + (damping * float(self.scales.mean()) or 1.0))


def _turned(matrix: Tensor, output: Tensor | None, input: Tensor | None) -> Tensor:
    return matrix if output is None or input is None else output.T @ matrix @ input


def _wide(values: Tensor) -> Tensor:
    """In float64 on the CPU: not every device has it, and what is solved for is there."""
    return values.cpu().double()


class Moments:
    """A sink for second moments of both sides."""

    def __init__(self) -> None:
        self.sides: dict[str, tuple[Tensor, Tensor]] = {}
        self.squares: dict[str, Tensor] = {}

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        values = _wide(gradient.flatten(1))
        if values.shape[1] <= BLOCK:
            one = torch.full((1, 1), float(len(values)), dtype=torch.float64)
            self._add(name, values.T @ values, one)
        else:
            self.squares[name] = self.squares.get(name, 0) + values.square().sum(0)

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        for side in (output, input):
            if side.shape[2] > LONGEST:
                raise ConfigError(
                    f"expected sides of at most {LONGEST} numbers for K-FAC and EK-FAC, got {side.shape[2]} of {name}; "
                    "leave it out by gradients.exclude"
                )
        o, i = (_wide(side.values()) for side in (output, input))
        self._add(name, torch.einsum("bto,btp->op", o, o) / o.shape[1], torch.einsum("bti,btj->ij", i, i))

    def _add(self, name: str, output: Tensor, input: Tensor) -> None:
        had = self.sides.get(name, (0, 0))
        self.sides[name] = had[0] + output, had[1] + input


class Scales:
    """A sink for squares in the bases of layers."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.layers, self.sums = layers, {name: torch.zeros_like(layer.scales) for name, layer in layers.items()}

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`: of a block, its output side is its basis."""
        basis = self.layers[name].output
        if basis is not None:
            self.sums[name] += (_wide(gradient.flatten(1)) @ basis).square().sum(0)[:, None]

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        layer = self.layers[name]
        assert layer.output is not None and layer.input is not None
        o, i = _wide(output.values()) @ layer.output, _wide(input.values()) @ layer.input
        for part in _steps(o, i):
            self.sums[name] += torch.bmm(o[part].mT, i[part]).square().sum(0)


class Forms:
    """A sink for quadratic forms of the rows of a batch, [B]."""

    def __init__(self, layers: Mapping[str, Layer], weights: Mapping[str, Tensor], rows: int) -> None:
        self.layers, self.weights = layers, weights
        self.sums = torch.zeros(rows, dtype=torch.float64)

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        values, basis = _wide(gradient.flatten(1)), self.layers[name].output
        turned = values if basis is None else values @ basis
        self.sums += turned.square() @ self.weights[name][:, 0]

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`: of one position, a product of squares and no product written out."""
        layer, weights, positions = self.layers[name], self.weights[name], output.shape[1]
        assert layer.output is not None and layer.input is not None
        o, i = _wide(output.values()) @ layer.output, _wide(input.values()) @ layer.input
        if positions == 1:
            self.sums += ((o[:, 0].square() @ weights) * i[:, 0].square()).sum(1)
            return
        for part in _steps(o, i):
            self.sums[part] += (torch.bmm(o[part].mT, i[part]).square() * weights).sum((1, 2))


class Products:
    """A sink for products of the rows of a batch with some vectors, [B, q]."""

    def __init__(self, vectors: Mapping[str, Tensor], rows: int) -> None:
        self.vectors = vectors
        self.sums = torch.zeros(rows, len(next(iter(vectors.values()))), dtype=torch.float64)

    def dense(self, name: str, gradient: Tensor) -> None:
        """See `Sink`."""
        self.sums += _wide(gradient.flatten(1)) @ self.vectors[name].T

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See `Sink`."""
        o, i = _wide(output.values()), _wide(input.values())
        for part in _steps(o, i):
            self.sums[part] += torch.bmm(o[part].mT, i[part]).flatten(1) @ self.vectors[name].T


def _steps(output: Tensor, input: Tensor) -> Iterator[slice]:
    """Rows whose products [O, I] are written out together."""
    step = max(1, BLOCK_BYTES // (8 * output.shape[2] * input.shape[2]))
    return (slice(start, start + step) for start in range(0, len(output), step))


@dataclass(frozen=True)
class Factored:
    """A factored Fisher matrix; parameters one after the other, as `shapes` has them."""

    layers: Mapping[str, Layer]
    shapes: Mapping[str, tuple[int, ...]]

    def solve(self, vector: Tensor, damping: float) -> Tensor:
        """(C + lambda)^-1 v, [P], lambda = damping x mean of the diagonal, layer by layer."""
        return torch.cat([self.layers[name].solve(piece, damping) for name, piece in self._pieces(vector).items()])

    def forms(self, engine: Engine, batches: Iterable[tuple[Any, int]], damping: float, mean: bool = False) -> Tensor:
        """S of each row, [n], or W, the mean of the squared products with the rows behind C.

        Args:
            engine: as in `fit`.
            batches: likewise.
            damping: of `solve`.
            mean: W.
        """
        weights = {name: layer.weights(damping) for name, layer in self.layers.items()}
        if mean:
            weights = {name: self.layers[name].scales * own.square() for name, own in weights.items()}
        return self._captured(engine, batches, lambda rows: Forms(self.layers, weights, rows))

    def products(self, engine: Engine, batches: Iterable[tuple[Any, int]], vectors: Tensor) -> Tensor:
        """g^T v of each row and vector, [n, q]; vectors are [q, P], the batches as in `fit`."""
        pieces = self._pieces(vectors)
        return self._captured(engine, batches, lambda rows: Products(pieces, rows))

    def _pieces(self, vectors: Tensor) -> dict[str, Tensor]:
        """The numbers of each parameter."""
        sizes = [prod(shape) for shape in self.shapes.values()]
        return dict(zip(self.shapes, vectors.split(sizes, -1), strict=True))

    def _captured(self, engine: Engine, batches: Iterable[tuple[Any, int]],
                  sink_of: Callable[[int], Forms | Products]) -> Tensor:  # fmt: skip
        """What sinks hold of all batches, one after the other."""
        found = []
        for batch, rows in batches:
            sink = sink_of(rows)
            engine.capture(batch, sink)
            found.append(sink.sums)
        return torch.cat(found)


def fit(engine: Engine, batches: Iterable[tuple[Any, int]], shapes: Mapping[str, tuple[int, ...]],
        corrected: bool) -> Factored:  # fmt: skip
    """The factored Fisher matrix of some rows.

    Args:
        engine: captures the gradients.
        batches: each with its number of rows; gone through once, or twice for EK-FAC.
        shapes: parameter -> shape.
        corrected: EK-FAC; else K-FAC.
    """
    moments, parts = Moments(), list(batches)
    rows = sum(count for _, count in parts)
    for batch, _ in parts:
        engine.capture(batch, moments)
    layers = {name: _layer(*sides, rows) for name, sides in moments.sides.items()}
    layers |= {name: Layer(None, None, squares[:, None] / rows) for name, squares in moments.squares.items()}
    if corrected:
        scales = Scales(layers)
        for batch, _ in parts:
            engine.capture(batch, scales)
        layers |= {name: Layer(layer.output, layer.input, scales.sums[name] / rows)
                   for name, layer in layers.items() if layer.output is not None}  # fmt: skip
    return Factored(layers, shapes)


def _layer(output: Tensor, input: Tensor, rows: int) -> Layer:
    """Bases of both sides and the diagonal of K-FAC, from sums over rows."""
    (s, q_s), (a, q_a) = (torch.linalg.eigh(side / rows) for side in (output, input))
    return Layer(q_s, q_a, torch.outer(s.clamp(min=0), a.clamp(min=0)))
