"""How a projection is fitted: passes over a sample of rows, each batch of which goes into a sink.

    fitter = pipeline.core.projection.fitter(method, shapes, dimension, seed, settings)
    while not fitter.done:
        for batch in batches:
            with fitter.batch(rows) as sink:
                engine.capture(batch, sink)
        fitter.end_pass()
    projection = fitter.projection()

The same rows come in every pass; what is fitted depends neither on their order nor on their batches, but for rounding.
A projection that a seed stands for needs no pass. Letters: n rows of the sample, B of a batch, K compressed size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.core.projection.base import Projection
from pipeline.core.sink import Sink
from pipeline.errors import LowlandError


@dataclass(frozen=True)
class Settings:
    """What a fitted projection wants to know beside its dimension.

    Attributes:
        basis: r, how many directions of a side of a parameter are kept at most. None: 64 for parameters whose gradients
            are sums over positions, 192 for the others.
        selected: K1, how many coordinates are selected before the second step down to K; no such step where K1 <= K.
            None: as the model allows, see `eigenfit.second_step`.
        groups: G, how many groups the second step has. None: as few as the model allows.
    """

    basis: int | None = None
    selected: int | None = None
    groups: int | None = None


class Fitter(ABC):
    """Fits one projection; see the module."""

    @property
    @abstractmethod
    def done(self) -> bool:
        """Whether no further pass over the sample is needed."""

    @abstractmethod
    def batch(
        self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> AbstractContextManager[Sink]:
        """A sink for the gradients of a batch of B = `rows` rows in the current pass."""

    def end_bytes(self, rows: int, dtype: torch.dtype = torch.float32) -> int:
        """Bytes that the end of the current pass holds for a sample of n = `rows` rows, where they grow with n; else 0.

        Resident ones (`pipeline.core.memory`), beside what is held before the pass begins; dtype is that of the rows.
        """
        return 0

    @abstractmethod
    def end_pass(self) -> None:
        """All rows of the sample have been seen once more."""

    @property
    def chosen(self) -> dict[str, Any]:
        """What was settled beside the dimension, by names of `Settings`, when all passes have ended; for a reader."""
        return {}

    @abstractmethod
    def projection(self) -> Projection:
        """The projection, when all passes have ended."""


class Seeded(Fitter):
    """The fitter of a projection that is known from its seed."""

    def __init__(self, build: Callable[[], Projection]) -> None:
        """Take what builds the projection."""
        self._build = build

    @property
    def done(self) -> bool:
        """Always."""
        return True

    def batch(
        self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> AbstractContextManager[Sink]:
        """Never asked for."""
        raise LowlandError(
            "expected no pass for a projection that is known from its seed, got a batch: call projection()"
        )

    def end_pass(self) -> None:
        """Never asked for."""
        raise LowlandError("expected no pass for a projection that is known from its seed, got one: call projection()")

    def projection(self) -> Projection:
        """The projection."""
        return self._build()
