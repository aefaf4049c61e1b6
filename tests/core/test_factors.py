"""Factors that are not written out against `Vectors` of their values: by themselves, and under every projection."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Factor, Joined, Maps, Vectors, Words, blocks, exact_squares, gram_squares, joined
from pipeline.core.projection import METHODS
from tests.oracles_factors import assert_same_under_a_projection, assert_same_vectors

ROWS, WORDS, WIDTH = 4, 11, 6


def draw(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(positions: int, seed: int = 0) -> Words:
    indices = torch.randint(WORDS, (ROWS, positions), generator=torch.Generator().manual_seed(seed))
    return Words(indices, WORDS, torch.float64)


def maps(positions: int, seed: int = 0) -> Maps:
    return Maps(draw(ROWS, WORDS, positions, seed=seed))


def vectors(positions: int, seed: int = 0, size: int = WORDS) -> Vectors:
    return Vectors(draw(ROWS, positions, size, seed=seed))


KINDS: dict[str, Callable[[int], Factor]] = {
    "words": words,
    "maps": maps,
    "joined": lambda positions: Joined(
        [words(positions), vectors(2, seed=1), words(3, seed=2), maps(positions, seed=3)]
    ),
}


@pytest.mark.parametrize("positions", [1, 3, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_same_as_its_values(kind: str, positions: int) -> None:
    assert_same_vectors(KINDS[kind](positions))


@pytest.mark.parametrize("positions", [1, 3, 25])  # joined no more than second moments are taken from
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_same_under_every_projection(method: str, kind: str, positions: int) -> None:
    factor = KINDS[kind](positions)
    other = vectors(factor.shape[1], seed=5, size=WIDTH)
    assert_same_under_a_projection(method, factor, other)
    assert_same_under_a_projection(method, other, factor)
    assert_same_under_a_projection(method, factor, factor)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block_bytes", [1, 500, 10**6])
def test_blocks_of_its_products(kind: str, block_bytes: int) -> None:
    factor = KINDS[kind](3)
    other = vectors(factor.shape[1], seed=5, size=WIDTH)
    whole = torch.einsum("bto,bti->boi", factor.values(), other.values()).flatten(1)
    found = torch.zeros_like(whole)
    for start, entries in blocks(factor, other, block_bytes):
        found[:, start : start + entries.shape[1]] = entries
    torch.testing.assert_close(found, whole, rtol=1e-12, atol=1e-12)
    for squares in (gram_squares(factor, other), exact_squares(factor, other)):
        torch.testing.assert_close(squares, whole.square().sum(1), rtol=1e-10, atol=0)


def test_outputs_that_no_word_touches_are_left_out() -> None:
    factor = Words(torch.tensor([[2, 2], [9, 2]]), WORDS, torch.float64)
    starts = [start // WIDTH for start, _ in blocks(factor, Vectors(draw(2, 2, WIDTH)), block_bytes=1)]
    assert starts == [2, 9]
    assert Joined([factor, factor]).touches(0, 3) and not Joined([factor, factor]).touches(3, 9)


def test_words_are_not_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    factor, other, basis = words(3), vectors(3, size=WIDTH), draw(WORDS, 2)
    written = Vectors(factor.values())

    def asked(side: Factor) -> list[Tensor]:
        entries = [(start, entries.clone()) for start, entries in blocks(side, other, block_bytes=1)]
        touched = [entries for _, entries in entries if entries.any()]
        return [side.rotated(basis), side.gram(), exact_squares(side, other), *touched]

    expected = asked(written)
    monkeypatch.setattr(Words, "values", lambda _: pytest.fail("written out"))
    found = asked(factor)
    assert len(found) == len(expected) > 3
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two)


def test_half_precision_is_brought_to_single() -> None:
    values = draw(ROWS, 3, WORDS).bfloat16()
    for factor in (Vectors(values), Maps(values.mT)):
        assert factor.dtype == factor.values().dtype == torch.float32
        assert torch.equal(factor.values(), values.float())


def test_one_part_is_not_joined() -> None:
    only = vectors(3)
    assert joined([only]) is only
    assert joined([only, vectors(2)]).shape == (ROWS, 5, WORDS)
