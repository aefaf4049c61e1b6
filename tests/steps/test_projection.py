"""Which rows fit the projection, and which the codec."""

from __future__ import annotations

import pytest

from pipeline.steps.projection import _samples

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
