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

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from pipeline.core.factors import Factor, exact_squares, squares
from pipeline.core.projection.base import Norms, PartSketch, Projection, Shapes, Sketch
from pipeline.core.projection.norms import gram_is_exact_and_cheap, kronecker_variance
from pipeline.core.projection.streams import signs, stream
from pipeline.errors import ConfigError


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


class Kronecker(Projection):
    """Random factors a parameter; see the module."""

    method = "kronecker"

    def __init__(self, shapes: Shapes, rank: int, seed: int) -> None:
        """The factors of rank r = `rank` that a seed stands for."""
        super().__init__(shapes, codes_of_rank(shapes, rank))
        self.rank = rank
        self.blocks: dict[str, Block] = {}
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
        return _KroneckerSketch(self, rows, dtype, device, norms)


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
    def __init__(
        self, projection: Kronecker, rows: int, dtype: torch.dtype, device: torch.device | str, norms: Norms
    ) -> None:
        super().__init__(projection.shapes, rows, device)
        self._parts, self._exact = projection.blocks, norms == "exact"
        self._values = torch.zeros(rows, projection.dimension, dtype=dtype, device=device)

    def _add(self, name: str, gradient: Tensor) -> None:
        part = self._parts[name]
        matrix = _times(gradient.reshape(-1, *part.shape), part.columns)  # [B, O, r_i]
        self._store(part, _times(matrix.mT, part.rows).mT)

    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        part = self._parts[name]
        codes = torch.bmm(_rotated(output, part.rows, self._values).mT, _rotated(input, part.columns, self._values))
        self._store(part, codes)
        if self._exact or gram_is_exact_and_cheap(output.shape[1]):
            self._squares += exact_squares(output, input)
        else:  # the squared norm of the code is itself an unbiased estimate
            square = squares(codes.flatten(1))
            self._squares += square
            self._variances += part.variance * square.square()

    def _store(self, part: Block, codes: Tensor) -> None:
        self._values[:, part.offset : part.offset + prod(part.reduced)] = codes.flatten(1)

    def _codes(self) -> Tensor:
        return self._values


def _rotated(factor: Factor, matrix: Tensor | None, like: Tensor) -> Tensor:
    """[B, T, full] to [B, T, small]."""
    return factor.values().to(like) if matrix is None else factor.rotated(matrix.to(like).T)


def _times(values: Tensor, factor: Tensor | None) -> Tensor:
    """[B, n, full] to [B, n, small]."""
    return values if factor is None else values @ factor.to(values).T
