"""Tensor sketch (Pham and Pagh 2013; Pagh 2013, arXiv 1108.1320): a count sketch of the full gradient, from factors.

Entry (a, b) of a matrix parameter's gradient G [O, I] is added to number (h_o(a) + h_i(b)) mod K with the sign
s_o(a) s_i(b): random buckets h and signs s a side and parameter, O + I of them to keep and not P. Such a sketch of
o i^T is the circular convolution of the count sketches of o and i, so that

    code = irfft( sum over parameters and t of rfft(C_o o_t) * rfft(C_i i_t) ) + sketches of what comes materialised,

with one inverse transform a batch. A position costs two transforms of K numbers, and G is never formed. With many
positions in a small layer, G's entries, a few outputs at a time, are the cheaper way to the same numbers; the costs
decide. Parameters of more dimensions count as [O, the rest], a vector as [1, n], for which this is a count sketch.

Inner products of full gradients are unbiased. Their variance is that of a count sketch,
(|x|^2 |y|^2 + (x . y)^2 - 2 sum_i x_i^2 y_i^2) / K, and for each parameter of matrices X and Y of x and y about

    ((1 + c / K) (|X^T Y|^2 + |X Y^T|^2) + tr((X^T Y)^2) + tr((X Y^T)^2)) / K

more, less the terms of single rows and columns (c = 2 for even K, otherwise 1): four entries that form a rectangle have
signs whose product is always one. (Derived by summing sign product times probability that buckets meet over the ways in
which the rows and the columns of four entries can pair up.) For gradients of high rank the addition vanishes; x = y of
rank one has the largest variance that there can be, (6 + 4 / K) |x|^4 / K.

Letters: B rows, T positions, O outputs, I inputs, K compressed size, n numbers of a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.factors import Factor, at_least_float32, gram_squares, squares
from pipeline.core.projection.base import EntrySketch, Norms, Projection, Shapes, Sketch, size_of
from pipeline.core.projection.identity import Identity
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.norms import gram_is_exact_and_cheap
from pipeline.core.projection.streams import signs, stream

CHUNK_BYTES = 2**21
"""Of count sketches at a time: on one CPU thread a transform of 16,384 numbers takes 22 us in chunks of 1 to 4 MiB, 100
us in larger ones."""
ENTRIES = 2**18  # of a materialised gradient whose buckets are worked out at a time

# Nanoseconds on one CPU thread; only their ratios matter.
TRANSFORMS_NS = 2.5  # one of the K numbers of a position: two transforms and their product
BUCKET_NS = 0.7  # an entry added to its bucket
PRODUCT_NS = 0.03  # a multiplication in a matrix product


@dataclass(frozen=True)
class Hash:
    """Buckets and signs of one side, [n] each."""

    buckets: Tensor
    signs: Tensor

    def part(self, first: int, last: int) -> Hash:
        """Those of some numbers."""
        return Hash(self.buckets[first:last], self.signs[first:last])

    def to(self, device: torch.device) -> Hash:
        """The same on a device."""
        return Hash(self.buckets.to(device), self.signs.to(device))


class TensorSketch(Projection):
    """A structured count sketch; see the module."""

    method = "tensorsketch"

    def __init__(self, shapes: Shapes, dimension: int, seed: int) -> None:
        """The hashes that a seed stands for."""
        super().__init__(shapes, dimension)
        self._hashes = {torch.device("cpu"): {name: self._drawn(seed, name) for name in self.shapes}}

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """The sketch that a seed stands for; where K >= P, the identity, exact, with dimension P."""
        if dimension >= size_of(shapes) > 0:
            return Identity.build(shapes, dimension, seed)
        return cls(shapes, dimension, seed)

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return _TensorSketch(self, rows, dtype, torch.device(device), norms)

    def hashes(self, device: torch.device) -> Mapping[str, tuple[Hash, Hash]]:
        """Parameter -> hashes of its output and its input side, on a device."""
        if device not in self._hashes:
            here = self._hashes[torch.device("cpu")]
            self._hashes[device] = {name: (left.to(device), right.to(device)) for name, (left, right) in here.items()}
        return self._hashes[device]

    def _drawn(self, seed: int, name: str) -> tuple[Hash, Hash]:
        found = []
        for side, size in zip(("output", "input"), as_matrix(self.shapes[name]), strict=True):
            generator = stream(seed, f"tensorsketch {side}", name)
            buckets = torch.from_numpy(generator.integers(0, self.dimension, size))
            found.append(Hash(buckets, torch.from_numpy(signs(generator, size))))
        return found[0], found[1]


class _TensorSketch(EntrySketch):
    def __init__(
        self, projection: TensorSketch, rows: int, dtype: torch.dtype, device: torch.device, norms: Norms
    ) -> None:
        super().__init__(projection.shapes, rows, device)
        self._dimension, self._hashes = projection.dimension, projection.hashes(device)
        self._dtype, self._exact = dtype, norms == "exact"
        # Sums of entries: first those of positive sign, then the others, and each folded to K in the end. Cheaper than
        # multiplying entries by signs, and remainders of bucket numbers by K.
        self._sums = at_least_float32(torch.zeros(rows, 4 * self._dimension, dtype=dtype, device=device))
        self._waves = self._no_waves()

    def _no_waves(self) -> Tensor:
        return torch.zeros(
            len(self._sums), self._dimension // 2 + 1, dtype=self._sums.dtype.to_complex(), device=self._sums.device
        )

    def _add_entries(self, name: str, start: int, entries: Tensor) -> None:
        inputs = as_matrix(self._shapes[name])[1]
        step = max(1, ENTRIES // inputs)
        first = start // inputs  # entries come in whole outputs
        for part in entries.split(step * inputs, 1):
            count = part.shape[1] // inputs
            index = self._targets(name, first, first + count)
            self._sums.scatter_add_(1, index.expand(len(part), -1), part.to(self._sums.dtype))
            first += count

    def _targets(self, name: str, first: int, last: int) -> Tensor:
        """Where the entries of some outputs go, [(last - first) I], from 0 to 4 K."""
        output, input = (self._hashes[name][0].part(first, last), self._hashes[name][1])
        half = 2 * self._dimension
        of_either_sign = torch.stack([input.buckets + half * (input.signs * sign < 0) for sign in (-1, 1)])
        return of_either_sign[(output.signs > 0).long()].add_(output.buckets.unsqueeze(1)).flatten()

    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        free = not self._exact and not gram_is_exact_and_cheap(output.shape[1])
        if _entries_are_cheaper(output, input, self._dimension, free):
            super()._add_outer(name, output, input)
            return
        waves = self._transformed(name, output, input)
        self._waves += waves
        if free:
            square = wave_squares(waves, self._dimension)
            self._squares += square
            self._variances += relative_variance(self._dimension) * square.square()
        else:
            self._squares += gram_squares(output, input)

    def _transformed(self, name: str, output: Factor, input: Factor) -> Tensor:
        """The transform of the sketch of one parameter's gradient, [B, K // 2 + 1]."""
        found = self._no_waves()
        sides = zip(self._hashes[name], (output, input), strict=True)
        left, right = (_Counted(factor, side, self._sums[:0, : self._dimension]) for side, factor in sides)
        bytes_each = self._dimension * self._sums.element_size()
        for rows, positions in chunks(*output.shape[:2], CHUNK_BYTES // bytes_each):
            product = torch.fft.rfft(left.sketched(rows, positions))
            product *= torch.fft.rfft(right.sketched(rows, positions))
            found[rows] += product.sum(1)
        return found

    def _codes(self) -> Tensor:
        positive, negative = self._sums.view(len(self._sums), 2, 2, self._dimension).sum(2).unbind(1)
        return (positive - negative + torch.fft.irfft(self._waves, self._dimension)).to(self._dtype)


class _Counted:
    """Count sketches of a factor's vectors, some at a time; it takes them as a second moment does.

    So unit vectors are never written out, whatever they are joined to.
    """

    def __init__(self, factor: Factor, side: Hash, like: Tensor) -> None:
        """Of a factor [B, T, n], into tensors [., K] `like` that one."""
        self._rows, self._side, self._like = factor.shape[0], side, like
        self._parts: list[tuple[bool, Tensor]] = []
        factor.feed(self, max(1, factor.shape[1]))

    def add(self, vectors: Tensor) -> None:
        """Vectors [B T', n]."""
        self._parts.append((False, vectors.unflatten(0, (self._rows, -1))))

    def add_units(self, indices: Tensor) -> None:
        """Unit vectors, [B T']."""
        self._parts.append((True, indices.unflatten(0, (self._rows, -1))))

    def sketched(self, rows: slice, positions: slice) -> Tensor:
        """Count sketches of vectors, [rows, positions, K]."""
        found, first = [], 0
        for units, part in self._parts:
            own = part[rows, max(0, positions.start - first) : max(0, positions.stop - first)]
            if own.shape[1]:
                found.append(self._of_units(own) if units else self._of_vectors(own))
            first += part.shape[1]
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def _of_vectors(self, vectors: Tensor) -> Tensor:
        flat = (vectors.to(self._like.dtype) * self._side.signs).flatten(0, 1)
        sums = self._like.new_zeros(len(flat), self._like.shape[1])
        return sums.index_add_(1, self._side.buckets, flat).unflatten(0, vectors.shape[:2])

    def _of_units(self, indices: Tensor) -> Tensor:
        sums = self._like.new_zeros(*indices.shape, self._like.shape[1])
        values = self._side.signs[indices].to(sums.dtype)
        return sums.scatter_(2, self._side.buckets[indices].unsqueeze(2), values.unsqueeze(2))


def chunks(rows: int, positions: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Rows and positions of at most `size` vectors at a time, or one: as many rows as fit, then positions."""
    height = min(rows, max(1, size))
    width = max(1, size // max(1, height))
    for row in range(0, rows, max(1, height)):
        for position in range(0, positions, width):
            yield slice(row, min(rows, row + height)), slice(position, min(positions, position + width))


def wave_squares(waves: Tensor, dimension: int) -> Tensor:
    """Squared norms, [B] in float64, of K = `dimension` real numbers from their transform (Parseval)."""
    weights = torch.full((waves.shape[1],), 2.0 / dimension, dtype=waves.real.dtype, device=waves.device)
    weights[0] /= 2
    if dimension % 2 == 0:
        weights[-1] = 1 / dimension  # so that K = 2 gives the same as the line above
    return squares(torch.view_as_real(waves * weights.sqrt()).flatten(1))


def relative_variance(dimension: int) -> float:
    """The largest variance of a parameter's squared norm |code|^2, over |G|^4; reached by rank one. See the module."""
    return (6 + 4 / dimension) / dimension


def _entries_are_cheaper(output: Factor, input: Factor, dimension: int, norms_are_free: bool) -> bool:
    """Whether bucketing G's entries costs less than transforms, which may need a Gram matrix for the norm beside."""
    _, positions, outputs = output.shape
    inputs = input.shape[2]
    transforms = TRANSFORMS_NS * dimension + BUCKET_NS * (outputs + inputs)
    gram = 0.0 if norms_are_free or positions == 1 else PRODUCT_NS * positions * (outputs + inputs)
    return outputs * inputs * (BUCKET_NS + PRODUCT_NS * positions) < positions * (transforms + gram)
