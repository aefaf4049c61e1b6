"""The two sides of a matrix gradient, G = sum over t of o_t i_t^T, without writing them out.

A linear layer's gradient is known by its factors: the layer's inputs and the gradients of its outputs at T positions.
Mostly these are tensors (`Vectors`). But a convolution's inputs are overlapping patches of one image, k times its size,
and an embedding's "outputs" are unit vectors of V numbers: what a sketch wants of them, a few directions of each, can
be had without them. So a factor is asked what it can do: rotate into a basis, give one block of G, its Gram matrix, or,
if nothing else helps, all values.

Letters: B rows, T positions, n numbers of a side, O outputs, I inputs, r directions, V words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_BYTES = 2**22  # of materialised gradient at a time; measured best from 1 to 8 MiB: it stays in the cache


class Moments(Protocol):
    """Takes the vectors of a factor for their second moment."""

    def add(self, vectors: Tensor) -> None:
        """Vectors [m, n]."""

    def add_units(self, indices: Tensor) -> None:
        """Unit vectors with their one at `indices`, [m]."""


class Factor(ABC):
    """One side of a gradient: T vectors of n numbers a row.

    Attributes:
        shape: [B, T, n].
        device: of the numbers.
        dtype: at least float32: sums of half precision lose digits.
    """

    shape: tuple[int, int, int]
    device: torch.device
    dtype: torch.dtype

    @abstractmethod
    def values(self) -> Tensor:
        """All of them, [B, T, n]."""

    @abstractmethod
    def rotated(self, basis: Tensor) -> Tensor:
        """The vectors in r directions, values @ basis, [B, T, r], in the basis' dtype.

        Args:
            basis: [n, r].
        """

    def gram(self) -> Tensor:
        """Inner products of a row's vectors, [B, T, T]."""
        values = self.values()
        return torch.bmm(values, values.mT)

    def touches(self, start: int, stop: int) -> bool:
        """Whether any of the numbers from `start` to before `stop` can be other than zero."""
        return start < stop

    def product(self, other: Tensor, start: int, stop: int, out: Tensor) -> None:
        """Write rows `start` to before `stop` of G with this as its output side, [B, stop - start, I].

        Args:
            other: the input side, [B, T, I].
            start: first output.
            stop: one after the last.
            out: where to.
        """
        part = self.values()[:, :, start:stop]
        if self.shape[1] == 1:
            torch.mul(part.mT, other, out=out)
        else:
            torch.bmm(part.mT, other, out=out)

    def feed(self, moments: Moments, positions: int) -> None:
        """Hand the vectors to a second moment; of more than `positions` a row and use, some at equal distances."""
        moments.add(self.values()[:, thinned(self.shape[1], positions)].flatten(0, 1))


class Vectors(Factor):
    """Vectors as they are."""

    def __init__(self, values: Tensor) -> None:
        """Take [B, T, n].

        Raises:
            ValueError: other than three dimensions.
        """
        rows, positions, size = values.shape
        self._values = at_least_float32(values)
        self.shape, self.dtype, self.device = (rows, positions, size), self._values.dtype, values.device

    def values(self) -> Tensor:
        """See the base."""
        return self._values

    def rotated(self, basis: Tensor) -> Tensor:
        """See the base.

        As basis^T values^T: for a few directions that takes a quarter of the time of values @ basis, if basis^T is
        contiguous, and for many no longer.
        """
        rows, positions, size = self.shape
        turned = torch.mm(basis.T, self._values.to(basis.dtype).reshape(-1, size).T)
        return turned.unflatten(1, (rows, positions)).permute(1, 2, 0)


class Maps(Vectors):
    """Vectors that stand in channels: [B, n, T], as images do."""

    def __init__(self, maps: Tensor) -> None:
        """Take [B, n, T]."""
        super().__init__(maps.mT)

    def rotated(self, basis: Tensor) -> Tensor:
        """See the base; one product a row, since all of them in one would have to copy the maps first."""
        maps = self._values.mT.to(basis.dtype)
        return torch.bmm(basis.T.expand(len(maps), -1, -1), maps).mT


class Words(Factor):
    """Unit vectors: the output side of an embedding."""

    def __init__(self, indices: Tensor, words: int, dtype: torch.dtype) -> None:
        """Take the places of the ones.

        Args:
            indices: [B, T].
            words: V.
            dtype: of the numbers.
        """
        rows, positions = indices.shape
        self.shape, self.dtype, self.device = (rows, positions, words), dtype, indices.device
        self._indices = indices.long()

    def values(self) -> Tensor:
        """See the base."""
        return F.one_hot(self._indices, self.shape[2]).to(self.dtype)

    def rotated(self, basis: Tensor) -> Tensor:
        """See the base."""
        return F.embedding(self._indices, basis)

    def gram(self) -> Tensor:
        """See the base."""
        return (self._indices.unsqueeze(2) == self._indices.unsqueeze(1)).to(self.dtype)

    def touches(self, start: int, stop: int) -> bool:
        """See the base."""
        return bool(((self._indices >= start) & (self._indices < stop)).any())

    def product(self, other: Tensor, start: int, stop: int, out: Tensor) -> None:
        """See the base."""
        row, position = ((self._indices >= start) & (self._indices < stop)).nonzero(as_tuple=True)
        places = row * (stop - start) + self._indices[row, position] - start
        out.zero_().view(-1, out.shape[2]).index_add_(0, places, other[row, position])

    def feed(self, moments: Moments, positions: int) -> None:
        """See the base."""
        moments.add_units(self._indices.flatten())


class Joined(Factor):
    """Factors one after the other along T, for a parameter that is used more than once."""

    def __init__(self, parts: Sequence[Factor]) -> None:
        """Join factors of the same rows and sizes."""
        first = parts[0]
        self.shape = (first.shape[0], sum(part.shape[1] for part in parts), first.shape[2])
        self.dtype, self.device = first.dtype, first.device
        self._parts = parts

    def values(self) -> Tensor:
        """See the base."""
        return torch.cat([part.values() for part in self._parts], 1)

    def rotated(self, basis: Tensor) -> Tensor:
        """See the base."""
        return torch.cat([part.rotated(basis) for part in self._parts], 1)

    def touches(self, start: int, stop: int) -> bool:
        """See the base."""
        return any(part.touches(start, stop) for part in self._parts)

    def product(self, other: Tensor, start: int, stop: int, out: Tensor) -> None:
        """See the base."""
        out.zero_()
        own, first = torch.empty_like(out), 0
        for part in self._parts:
            last = first + part.shape[1]
            if part.touches(start, stop):
                part.product(other[:, first:last], start, stop, own)
                out += own
            first = last

    def feed(self, moments: Moments, positions: int) -> None:
        """See the base."""
        for part in self._parts:
            part.feed(moments, positions)


def at_least_float32(values: Tensor) -> Tensor:
    """Values as they are, or in float32 where they have fewer digits."""
    return values.float() if values.element_size() < torch.float32.itemsize else values


def joined(parts: Sequence[Factor]) -> Factor:
    """One factor as it is, several as one."""
    return parts[0] if len(parts) == 1 else Joined(parts)


def thinned(count: int, at_most: int) -> slice:
    """Every so many-th of `count` things, so that about `at_most` and no more are left."""
    return slice(None, None, -(-count // at_most))


def blocks(output: Factor, input: Factor, block_bytes: int | None = None) -> Iterator[tuple[int, Tensor]]:
    """The entries of G in order, a few outputs at a time, without those that are zero for being touched by none.

    Args:
        output: [B, T, O].
        input: [B, T, I].
        block_bytes: how much to materialise at a time, `BLOCK_BYTES` if not said; at least one output.

    Yields:
        The position of the first entry in the flattened [O, I], and entries [B, n]. The memory is used again for the
        next block.
    """
    rows, _, outputs = output.shape
    values = input.values()
    inputs = values.shape[2]
    step = min(outputs, max(1, (block_bytes or BLOCK_BYTES) // max(1, rows * inputs * values.element_size())))
    buffer = values.new_empty(rows * step * inputs)
    for start in range(0, outputs, step):
        stop = min(start + step, outputs)
        if output.touches(start, stop):
            block = buffer[: rows * (stop - start) * inputs].view(rows, stop - start, inputs)
            output.product(values, start, stop, block)
            yield start * inputs, block.flatten(1)


def gram_is_cheaper(output: Factor, input: Factor, materialised: bool) -> bool:
    """Whether the norm costs less by T x T Gram matrices than by entries, which may be materialised anyway."""
    _, positions, outputs = output.shape
    inputs = input.shape[2]
    by_gram = positions**2 * (outputs + inputs)
    return by_gram <= outputs * inputs * (1 if materialised else positions + 1)


def gram_squares(output: Factor, input: Factor) -> Tensor:
    """Squared norms [B] in float64 by the Gram form: sum over t, u of (o_t . o_u) (i_t . i_u)."""
    if output.shape[1] == 1:
        return squares(output.values().flatten(1)) * squares(input.values().flatten(1))
    products = precise(output.gram()) * precise(input.gram())
    return products.sum((1, 2)).clamp(min=0)  # rounding can make it negative where positions cancel


def exact_squares(output: Factor, input: Factor) -> Tensor:
    """Squared norms [B] in float64 by what costs less."""
    if gram_is_cheaper(output, input, materialised=False):
        return gram_squares(output, input)
    return torch.stack([squares(entries) for _, entries in blocks(output, input)]).sum(0)


def squares(values: Tensor) -> Tensor:
    """Squared norms [B] in float64 of the rows of [B, n]."""
    if values.is_cpu:  # two thirds of the time
        numbers = at_least_float32(values.detach()).numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            return torch.from_numpy(np.vecdot(numbers, numbers)).double()
    return precise(torch.linalg.vector_norm(values, dim=1)).square()


def precise(values: Tensor) -> Tensor:
    """Values in float64, but on a device that has none."""
    return values if values.device.type == "mps" else values.double()
