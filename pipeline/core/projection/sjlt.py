"""Sparse Johnson-Lindenstrauss transform (Kane and Nelson 2014; with one non-zero a coordinate: the count sketch).

The K numbers are cut into s blocks; each coordinate is added to one random number of every block with a random sign and
weight 1 / sqrt(s). Inner products are unbiased, with variance (|x|^2 |y|^2 + (x . y)^2 - 2 sum_i x_i^2 y_i^2) / K where
s divides K (Weinberger et al. 2009, arXiv 0902.2206, for s = 1; s blocks are s sketches with K / s numbers, averaged).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod

import numpy as np

from pipeline.core.projection.base import Projection, Shapes, size_of
from pipeline.core.projection.buckets import BucketProjection, targets
from pipeline.core.projection.identity import Identity
from pipeline.core.projection.streams import signs, stream
from pipeline.errors import ConfigError


class SJLT(BucketProjection):
    """Sparse random signs; see the module."""

    method = "sjlt"

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int, nonzeros: int = 1) -> Projection:
        """The transform that a seed stands for.

        Where K >= P nothing is gained by hashing: it is then the identity, exact, with dimension P.

        Args:
            shapes: parameter -> shape.
            dimension: K.
            seed: the random seed.
            nonzeros: s, from 1 to K.

        Raises:
            ConfigError: s is out of range.
        """
        if dimension >= size_of(shapes) > 0:
            return Identity.build(shapes, dimension, seed)
        if not 1 <= nonzeros <= max(1, dimension):
            raise ConfigError(f"expected 1 to {dimension} non-zeros a coordinate, got {nonzeros}: choose fewer")
        edges = np.linspace(0, dimension, nonzeros + 1).astype(np.int64)
        tables = {}
        for name, shape in shapes.items():
            generator, count = stream(seed, "sjlt", name), prod(shape)
            tables[name] = [
                targets(generator.integers(low, high, count), signs(generator, count), dimension)
                for low, high in pairwise(edges)
            ]
        return cls(shapes, dimension, tables)
