"""A fitter whose passes over the sample each gather something: when one ends, it says what the next one gathers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from pipeline.core.projection.base import Projection
from pipeline.core.projection.fitting import Fitter
from pipeline.core.sink import Sink
from pipeline.errors import LowlandError


class Stage(ABC):
    """What one pass gathers."""

    @abstractmethod
    def batch(self, rows: int, dtype: torch.dtype, device: torch.device | str) -> AbstractContextManager[Sink]:
        """A sink for a batch."""


class StagedFitter(Fitter):
    """A fitter that goes from stage to stage."""

    def __init__(self, first: Stage) -> None:
        """Begin with a stage."""
        self._now: Stage | Projection = first

    @property
    def done(self) -> bool:
        """See the base."""
        return isinstance(self._now, Projection)

    @contextmanager
    def batch(
        self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Iterator[Sink]:
        """See the base."""
        with self._stage().batch(rows, dtype, device) as sink:
            yield sink

    def end_pass(self) -> None:
        """See the base."""
        self._now = self._after(self._stage())

    def projection(self) -> Projection:
        """See the base."""
        if isinstance(self._now, Stage):
            raise LowlandError("expected further passes over the sample before there is a projection: feed it first")
        return self._now

    def _stage(self) -> Stage:
        if isinstance(self._now, Projection):
            raise LowlandError("expected no further pass over the sample, got one: call projection()")
        return self._now

    @abstractmethod
    def _after(self, stage: Stage) -> Stage | Projection:
        """What follows when a stage has seen all rows."""
