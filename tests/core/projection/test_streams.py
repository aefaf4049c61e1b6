"""Streams differ by every part of their name, and by nothing else."""

from __future__ import annotations

import numpy as np

from pipeline.core.projection.streams import signs, stream


def test_a_stream_is_its_name() -> None:
    names = [
        (0, "a", "x"),
        (1, "a", "x"),
        (0, "b", "x"),
        (0, "a", "y"),
        (0, "ax", ""),
        (0, "a", "x", 1),
        (0, "a", "x", 2),
    ]
    drawn = [tuple(stream(*name).integers(0, 2**62, 4)) for name in names]  # type: ignore[arg-type]
    assert len(set(drawn)) == len(names)
    assert drawn == [tuple(stream(*name).integers(0, 2**62, 4)) for name in names]  # type: ignore[arg-type]


def test_signs_are_fair() -> None:
    values = signs(stream(0, "signs"), 10_001)
    assert values.dtype == np.int8 and set(values.tolist()) == {-1, 1} and len(values) == 10_001
    assert abs(values.mean()) < 4 / 100
    assert abs((values[1:] * values[:-1]).mean()) < 4 / 100


def test_numbers_are_pinned() -> None:
    """Stored codes stay comparable only while a seed means the same numbers."""
    assert stream(0, "sjlt", "weight").integers(0, 1000, 5).tolist() == PINNED


PINNED = [789, 457, 215, 327, 68]
