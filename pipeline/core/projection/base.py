"""What a projection is: a linear map of a whole gradient, P numbers, to K.

A `Projection` is the map, made from a seed or fitted; its `Sketch` takes the gradients of one batch, parameter by
parameter, and adds them up to codes [B, K]. On the way it sums the squared norm of the full gradient, so that norms,
cosines and error bars do not depend on the compression: exactly where that is nearly free (T = 1, materialised
gradients) or where it is asked for, otherwise as an unbiased estimate with its error; see `norms`.

Letters: B rows, T positions, P parameters, K compressed size, O outputs and I inputs of a layer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.factors import Factor, blocks, gram_is_cheaper, gram_squares, precise, squares
from pipeline.errors import ConfigError, LowlandError

Norms = Literal["exact", "estimated"]
Shapes = Mapping[str, tuple[int, ...]]  # parameter -> shape, in the model's order
State = Mapping[str, NDArray[Any]]


def size_of(shapes: Shapes) -> int:
    """P: how many numbers all parameters have."""
    return sum(prod(shape) for shape in shapes.values())


class Projection(ABC):
    """A linear map from P to K numbers.

    Attributes:
        method: its name in the config.
        shapes: parameter -> shape, in the model's order.
        dimension: K.
    """

    method: ClassVar[str]

    def __init__(self, shapes: Shapes, dimension: int) -> None:
        """Remember the sizes.

        Raises:
            ConfigError: there is nothing to map, or nothing to map it to.
        """
        if dimension < 1 or not shapes:
            raise ConfigError(
                f"expected a dimension of at least 1 and some parameters, got {dimension} and {len(shapes)}: "
                "look at projection.dimension and at the parameter patterns"
            )
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self.dimension = dimension

    @classmethod
    @abstractmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """The projection of these parameters that a seed stands for; a fitted one has its own way to be made."""

    @classmethod
    def from_state(cls, shapes: Shapes, dimension: int, seed: int, state: State) -> Projection:
        """The projection whose `state()` was stored.

        Raises:
            ConfigError: a state for a projection that has none.
        """
        if state:
            raise ConfigError(f"expected no state for a {cls.method} projection, got {', '.join(state)}: fit it anew")
        return cls.build(shapes, dimension, seed)

    def state(self) -> dict[str, NDArray[Any]]:
        """The arrays that a fitted projection is made of; empty where the seed says all."""
        return {}

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in order."""
        return tuple(self.shapes)

    @abstractmethod
    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch.

        Args:
            rows: B.
            dtype: of the codes.
            device: where the gradients will be.
            norms: whether squared norms may be estimated where exact ones cost much.
        """


class Sketch(ABC):
    """A sink that adds the gradients of one batch up to codes."""

    @abstractmethod
    def dense(self, name: str, gradient: Tensor) -> None:
        """Add the gradient of a parameter, [B, *shape]."""

    @abstractmethod
    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """Add the gradient of a matrix parameter as factors, [B, T, O] and [B, T, I]."""

    @abstractmethod
    def codes(self) -> Tensor:
        """The compressed gradients, [B, K].

        Raises:
            LowlandError: a parameter has not arrived.
        """

    @abstractmethod
    def squared_norms(self) -> Tensor:
        """Squared norms of the full gradients, [B], in float64: exact, or unbiased estimates."""

    @abstractmethod
    def squared_norm_errors(self) -> Tensor:
        """Standard errors of the squared norms, or more, [B], in float64; zero where they are exact."""


class PartSketch(Sketch):
    """A sketch of parts, one a parameter, each of which has to arrive once."""

    def __init__(self, shapes: Shapes, rows: int, device: torch.device | str) -> None:
        """An empty sketch of B = `rows` rows."""
        self._missing = set(shapes)
        self._shapes = shapes
        self._squares = precise(torch.zeros(rows, device=device))
        self._variances = torch.zeros_like(self._squares)

    def dense(self, name: str, gradient: Tensor) -> None:
        """See the base."""
        self._arrived(name)
        flat = gradient.reshape(gradient.shape[0], -1)
        self._squares += squares(flat)
        self._add(name, flat)

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        """See the base."""
        self._arrived(name)
        self._add_outer(name, output, input)

    def codes(self) -> Tensor:
        """See the base."""
        if self._missing:
            raise LowlandError(f"expected every parameter once, got nothing of {', '.join(sorted(self._missing))}")
        return self._codes()

    def squared_norms(self) -> Tensor:
        """See the base."""
        return self._squares

    def squared_norm_errors(self) -> Tensor:
        """See the base."""
        return self._variances.sqrt()

    def _arrived(self, name: str) -> None:
        if name not in self._missing:
            kind = "a second time" if name in self._shapes else "though it is not projected"
            raise LowlandError(f"expected every parameter once, got {name} {kind}")
        self._missing.remove(name)

    @abstractmethod
    def _codes(self) -> Tensor:
        """The codes of what has arrived."""

    @abstractmethod
    def _add(self, name: str, gradient: Tensor) -> None:
        """Add a parameter's gradient, [B, n]."""

    @abstractmethod
    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        """Add a parameter's gradient and its squared norms from factors."""


class EntrySketch(PartSketch):
    """A sketch that needs every entry of a gradient; factors are multiplied out a few outputs at a time."""

    @abstractmethod
    def _add_entries(self, name: str, start: int, entries: Tensor) -> None:
        """Add entries [B, n] that stand from `start` on in the flattened parameter."""

    def _add(self, name: str, gradient: Tensor) -> None:
        self._add_entries(name, 0, gradient)

    def _add_outer(self, name: str, output: Factor, input: Factor) -> None:
        by_gram = gram_is_cheaper(output, input, materialised=True)
        if by_gram:
            self._squares += gram_squares(output, input)
        for start, entries in blocks(output, input):
            self._add_entries(name, start, entries)
            if not by_gram:
                self._squares += squares(entries)
