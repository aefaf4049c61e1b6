"""The compressor of DMin (Lin, Lao, Zhao; arXiv 2412.08637): permute, sign, sum contiguous groups.

The gradient is padded with zeros to D, the next multiple of K, permuted once, multiplied by random signs, and its
D / K = m neighbours are summed. Inner products are unbiased, with variance
(m - 1) / (D - 1) * (|x|^2 |y|^2 + (x . y)^2 - 2 sum_i x_i^2 y_i^2).

DMin normalises a gradient before, which `gradients.normalise: part` does; by default codes keep their norm and the norm
of the full gradient goes with them, so that the score decides.
"""

from __future__ import annotations

from math import prod

from pipeline.core.projection.base import Projection, Shapes, size_of
from pipeline.core.projection.buckets import BucketProjection, targets
from pipeline.core.projection.identity import Identity
from pipeline.core.projection.streams import signs, stream


class DMin(BucketProjection):
    """Permuted group sums; see the module."""

    method = "dmin"

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """The compressor that a seed stands for; where K >= P, the identity, exact, with dimension P."""
        size = size_of(shapes)
        if dimension >= size > 0 or dimension < 1:
            return Identity.build(shapes, dimension, seed)
        group = -(-size // dimension)  # m
        places = stream(seed, "dmin permutation").permutation(group * dimension)[:size]
        table = targets(places // group, signs(stream(seed, "dmin signs"), size), dimension)
        parts = table.split([prod(shape) for shape in shapes.values()])
        return cls(shapes, dimension, {name: [part] for name, part in zip(shapes, parts, strict=True)})
