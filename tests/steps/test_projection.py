"""Which rows fit the projection, and which the codec; what a fit may not take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.core.memory import Watch
from pipeline.core.projection import make
from pipeline.core.projection.fitting import Seeded
from pipeline.errors import CapacityError
from pipeline.steps.projection import _Cut, _fit, _named, _samples
from tests.steps.test_memory import job_of

HASHES = [bytes([i]) for i in range(40)]


@pytest.mark.parametrize(("rows", "count", "own", "others"), [
    (40, 10, 10, 10), (40, 20, 20, 20), (40, 25, 20, 20), (40, 99, 20, 20), (5, 10, 3, 2), (1, 10, 1, 1),
])  # fmt: skip
def test_the_codec_is_fitted_on_rows_that_a_fitted_projection_has_not_seen(
    rows: int, count: int, own: int, others: int
) -> None:
    fit, codec = _samples(HASHES[:rows], "eigenbasis", count, seed=3)
    assert (len(fit), len(codec)) == (own, others)
    assert rows == 1 or set(fit).isdisjoint(codec)


def test_where_nothing_is_fitted_the_rows_are_the_first_of_the_hash_order() -> None:
    fit, codec = _samples(HASHES, "sjlt", 10, seed=3)
    assert fit == codec == _samples(HASHES, "eigenbasis", 10, seed=3)[0]


def test_rows_that_fitted_are_named_by_content_wherever_they_stand() -> None:
    named = _named({"train": HASHES, "validation": HASHES[:3]}, {"train": [3, 1, 7], "validation": [0]})
    moved = _named({"train": HASHES[::-1]}, {"train": [32, 36, 38]})
    assert named["train"] == moved["train"] and named["train"]["rows"] == 3
    assert named["train"] != _named({"train": HASHES}, {"train": [3, 1, 8]})["train"]
    assert named["validation"]["rows"] == 1


class _Fitting(Seeded):
    """A fitter of two passes, whose second one ends with much."""

    def __init__(self) -> None:
        super().__init__(lambda: make("identity", {"weight": (4,)}, 4, 0))
        self.passes, self.asked, self.fed = 0, [], 0

    @property
    def done(self) -> bool:
        return self.passes == 2

    @contextmanager
    def batch(self, rows: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Iterator[Any]:
        self.fed += rows
        yield None

    def end_bytes(self, rows: int, dtype: torch.dtype = torch.float32) -> int:
        self.asked.append((rows, dtype))
        return self.passes * 90 * 10**6

    def end_pass(self) -> None:
        self.passes += 1


def _fitted(memory_mb: int) -> _Fitting:
    work, task = _Fitting(), SimpleNamespace(loss_part=lambda batch, part: batch)
    rows = SimpleNamespace(batch=lambda positions: positions, device=torch.device("cpu"))
    cut = _Cut(task, SimpleNamespace(engine=SimpleNamespace(capture=lambda batch, sink: None)), parts=3)
    with Watch() as watch:
        _fit(job_of(memory_mb)[0], work, [(rows, [0, 1, 2]), (rows, [5, 6])], torch.float32, cut, watch)
    return work


def test_a_fit_whose_end_cannot_fit_is_refused_before_its_pass() -> None:
    work = _fitted(110)
    assert work.asked == [(15, torch.float32)] * 2 and work.fed == 30
    with pytest.raises(CapacityError) as caught:
        _fitted(90)
    assert str(caught.value) == (
        "expected the second step of a projection, fitted on 5 rows, within compute.memory_mb = 90, got a plan of 103 MB: "
        "raise compute.memory_mb, or lower projection.selected (as low as projection.dimension, there is no such step) "
        "or projection.sample_rows"
    )
