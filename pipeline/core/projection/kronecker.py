"""Kronecker-factored random projection (as in LoGra: Choe et al. 2024, arXiv 2405.13954, with random factors).

A matrix parameter's gradient G = sum_t o_t i_t^T becomes P_o G P_i^T = sum_t (P_o o_t)(P_i i_t)^T with P_o [r_o, O] and
P_i [r_i, I] of entries +-1 / sqrt(r): two small products a position, and G is never formed. r_o = min(r, O) and
r_i = min(r, I); a side that is not shortened is left as it is. A vector of n numbers becomes min(r, n) numbers
likewise. Parameters of more dimensions count as [O, the rest]. r is the largest for which all codes together are within
the dimension asked for; `dimension` is what they come to.

Inner products are unbiased, as E[P^T P] = 1. With E[(P^T P)_ab (P^T P)_cd] = [a=b][c=d] + ([a=c][b=d] + [a=d][b=c] -
2 [a=b=c=d]) / r on both sides, their variance is for each parameter of matrices X and Y, whose parts add up, about

    (|X^T Y|^2 + tr((X^T Y)^2)) / r_i + (|X Y^T|^2 + tr((X Y^T)^2)) / r_o
    + (|X|^2 |Y|^2 + (X . Y)^2 + |X^T Y|^2 + |X Y^T|^2) / (r_o r_i)

less the terms of single rows and columns; a side that is left as it is counts as r = infinity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from pipeline.core.factors import Factor, exact_squares, squares
from pipeline.core.projection.base import Norms, PartSketch, Projection, Shapes, Sketch
from pipeline.core.projection.norms import gram_is_exact_and_cheap, kronecker_variance
from pipeline.core.projection.streams import signs, stream
from pipeline.errors import ConfigError

Place = tuple[torch.dtype, torch.device]


@dataclass(frozen=True)
class Block:
    """One parameter's part of the projection.

    Attributes:
        offset: of its first code.
        rows: P_o, [r_o, O], or None for the identity.
        columns: P_i, [r_i, I], or None for the identity.
        shape: [O, I]; a vector is [1, n].
        reduced: [r_o, r_i].
    """

    offset: int
    rows: Tensor | None
    columns: Tensor | None
    shape: tuple[int, int]
    reduced: tuple[int, int]

    @property
    def variance(self) -> float:
        """Largest variance of the squared norm of the codes, over the fourth power of the gradient's norm."""
        sides = zip(self.reduced, (self.rows, self.columns), strict=True)
        return kronecker_variance(*[0 if factor is None else small for small, factor in sides])

    def to(self, place: Place) -> Block:
        """The same with factors of a dtype, on a device."""
        dtype, device = place
        rows, columns = (None if side is None else side.to(device, dtype) for side in (self.rows, self.columns))
        return replace(self, rows=rows, columns=columns)


class Kronecker(Projection):
    """Random factors a parameter; see the module."""

    method = "kronecker"

    def __init__(self, shapes: Shapes, rank: int, seed: int) -> None:
        """The factors of rank r = `rank` that a seed stands for."""
        super().__init__(shapes, codes_of_rank(shapes, rank))
        self.rank = rank
        self.blocks: dict[str, Block] = {}
        self._placed: dict[Place, dict[str, Block]] = {}
        offset = 0
        for name, shape in shapes.items():
            full = as_matrix(shape)
            small = reduced(shape, rank)
            sides = [_factor(seed, side, name, small[i], full[i]) for i, side in enumerate(("output", "input"))]
            self.blocks[name] = Block(offset, sides[0], sides[1], full, small)
            offset += prod(small)

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Kronecker:
        """The projection that a seed stands for.

        Raises:
            ConfigError: the dimension is below one number a parameter.
        """
        return cls(shapes, rank_within(shapes, dimension, cls.method), seed)

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return _KroneckerSketch(self, rows, (dtype, torch.device(device)), norms)

    def at(self, place: Place) -> dict[str, Block]:
        """The blocks with factors of a dtype, on a device."""
        if place not in self._placed:
            self._placed[place] = {name: block.to(place) for name, block in self.blocks.items()}
        return self._placed[place]


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """[O, ...] as [O, the rest]; a vector or a number as one row."""
    return (1, prod(shape)) if len(shape) < 2 else (shape[0], prod(shape[1:]))


def reduced(shape: tuple[int, ...], rank: int) -> tuple[int, int]:
    """[r_o, r_i] of a parameter."""
    outputs, inputs = as_matrix(shape)
    return min(rank, outputs), min(rank, inputs)


def codes_of_rank(shapes: Shapes, rank: int) -> int:
    """How many codes all parameters have together."""
    return sum(prod(reduced(shape, rank)) for shape in shapes.values())


def rank_within(shapes: Shapes, dimension: int, method: str) -> int:
    """The largest r for which all codes are within the dimension.

    Raises:
        ConfigError: the dimension is below one number a parameter; `method` is for the message.
    """
    if dimension < len(shapes):
        raise ConfigError(
            f"expected a dimension of at least one a parameter, {len(shapes)}, for a {method} projection, "
            f"got {dimension}: raise projection.dimension, or leave parameters out"
        )
    # By bisection; beyond the longest side nothing changes.
    low, high = 1, max((max(as_matrix(shape)) for shape in shapes.values()), default=1)
    while low < high:
        middle = (low + high + 1) // 2
        if codes_of_rank(shapes, middle) <= dimension:
            low = middle
        else:
            high = middle - 1
    return low


def _factor(seed: int, side: str, name: str, small: int, full: int) -> Tensor | None:
    """Random signs [small, full] / sqrt(small), or None where nothing is shortened."""
    if small == full:
        return None
    drawn = signs(stream(seed, f"kronecker {side}", name), small * full).reshape(small, full)
    return torch.from_numpy(drawn.astype(np.float64) / small**0.5)


class _KroneckerSketch(PartSketch):
    def __init__(self, projection: Kronecker, rows: int, place: Place, norms: Norms) -> None:
        super().__init__(projection.shapes, rows, place[1])
        self._parts, self._exact = projection.at(place), norms == "exact"
        # A coordinate a line, as codes are encoded. All are written before they are read: all parameters must arrive.
        self._values = torch.empty(projection.dimension, rows, dtype=place[0], device=place[1])

    def _add(self, name: str, gradient: Tensor) -> None:
        part, gradient = self._parts[name], gradient.to(self._values.dtype)
        if part.shape[0] == 1:
            self._place(part).copy_(gradient.T if part.columns is None else part.columns @ gradient.T)
        else:
            matrix = gradient.reshape(len(gradient), *part.shape)
            matrix = matrix if part.columns is None else matrix @ part.columns.T  # [B, O, r_i]
            self._store(part, matrix if part.rows is None else part.rows @ matrix)

    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        part, dtype = self._parts[name], self._values.dtype
        left, right = _rotated(output, part.rows, dtype), _rotated(input, part.columns, dtype)
        if self._exact or gram_is_exact_and_cheap(output.shape[1]):
            self._squares += exact_squares(output, input)
            self._store_products(part, left, right)
        else:  # the squared norm of the code is itself an unbiased estimate
            codes = torch.bmm(left.mT, right)
            square = squares(codes.flatten(1))
            self._squares += square
            self._variances += part.variance * square.square()
            self._store(part, codes)

    def _store_products(self, part: Block, left: Tensor, right: Tensor) -> None:
        """Sums over positions of [B, T, r_o] and [B, T, r_i]; of one position, product by product in place."""
        if left.shape[1] > 1:
            self._store(part, torch.bmm(left.mT, right))
        else:
            place = self._place(part).unflatten(0, part.reduced)
            torch.mul(left[:, 0].T.unsqueeze(1), right[:, 0].T.unsqueeze(0), out=place)

    def _store(self, part: Block, codes: Tensor) -> None:
        self._place(part).copy_(codes.flatten(1).T)

    def _place(self, part: Block) -> Tensor:
        """Where the codes of a parameter go, [r_o r_i, B]."""
        return self._values[part.offset : part.offset + prod(part.reduced)]

    def _codes(self) -> Tensor:
        return self._values.T


def _rotated(factor: Factor, matrix: Tensor | None, dtype: torch.dtype) -> Tensor:
    """[B, T, full] to [B, T, small]."""
    return factor.values().to(dtype) if matrix is None else factor.rotated(matrix.T)
