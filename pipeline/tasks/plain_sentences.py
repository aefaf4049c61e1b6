"""Sentences of four words, and texts of nothing but such sentences, from which a small decoder learns to spell."""

from __future__ import annotations

import numpy as np

from pipeline.tasks.language import Text
from pipeline.tasks.noise import stream

WORDS = (
    "ancient brave bright broken clever crimson distant dusty frozen gentle golden hidden hollow hungry lonely misty "
    "narrow noisy patient proud quiet restless rusty shiny silver sleepy stormy tired velvet wooden",
    "candle castle engine feather forest garden harbour island kitten lantern market meadow mirror mountain orchard "
    "painter pilot planet river robin sailor shadow stone teacher tower traveller valley violin wagon window",
    "borrows carries chases counts covers crosses draws feeds finds follows forgets greets guards hears hides holds "
    "keeps leaves lifts loses meets mends moves needs opens paints pulls reaches seeks watches",
    "apples bells bridges clouds coins doors dreams echoes eyes fires flowers gates hills horses ideas jewels kites "
    "letters maps nights oceans promises questions roads stars trains umbrellas voices walls years",
)
"""The words of each place, thirty a place."""
_WORDS = tuple(tuple(words.split()) for words in WORDS)


def sentence(draw: np.random.Generator) -> str:
    """A word of each place, in small letters and without a stop."""
    return " ".join(words[draw.integers(len(words))] for words in _WORDS)


def plain_texts(count: int, letters: int, seed: int) -> list[Text]:
    """Texts of sentences, cut after so many letters."""
    draw, sentences = stream(seed, "plain sentences"), letters // 16 + 1  # none is shorter
    return [Text("", ". ".join(sentence(draw) for _ in range(sentences))[:letters]) for _ in range(count)]
