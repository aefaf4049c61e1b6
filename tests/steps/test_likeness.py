"""Likeness of texts against the formulas, word by word."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.steps.likeness import K1, B, bm25, tf_idf

TEXTS = ["the cat sat on the mat", "a dog sat", "the the the", "cats & dogs"]


def by_hand(query: str, text: str) -> float:
    split = [each.split() for each in TEXTS]
    words, mean = text.split(), sum(map(len, split)) / len(split)
    total = 0.0
    for word in set(query.split()):
        held, often = sum(word in other for other in split), words.count(word)
        rarity = math.log(1 + (len(TEXTS) - held + 0.5) / (held + 0.5))
        total += rarity * often * (K1 + 1) / (often + K1 * (1 - B + B * len(words) / mean))
    return total


@pytest.mark.parametrize("query", ["the cat", "dog dog sat", "& nothing", "zebra"])
def test_bm25_is_its_formula(query: str) -> None:
    found = bm25([query], TEXTS)[0]
    np.testing.assert_allclose(found, [by_hand(query, text) for text in TEXTS], rtol=1e-12)


def test_a_text_is_most_like_itself() -> None:
    for score in (bm25, tf_idf):
        assert (score(TEXTS, TEXTS).argmax(1) == np.arange(len(TEXTS))).all()


@pytest.mark.parametrize("score", [bm25, tf_idf])
def test_texts_without_words_are_like_nothing(score) -> None:
    assert score(["a b"], ["", " "]).tolist() == [[0, 0]]
