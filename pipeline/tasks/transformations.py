"""Ten transformations of sentences, each a group: DataInf's protocol (Kwon et al., ICLR 2024) with texts of our own.

A prompt names the transformation and gives a sentence, the completion is the sentence transformed. Each group has the
same sentences, of which those to be explained are in no train text. Which train texts taught a completion is known:
those of the same transformation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.tasks.language import Text
from pipeline.tasks.plain_sentences import sentence
from pipeline.tasks.small_language import MadeTexts

VOWELS = "aeiou"


def _each(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda sentence: " ".join(change(word) for word in sentence.split())


def _every_other_letter(word: str) -> str:
    return "".join(letter.upper() if place % 2 else letter for place, letter in enumerate(word))


TRANSFORMATIONS: dict[str, Callable[[str], str]] = {
    "reverse the words": lambda sentence: " ".join(reversed(sentence.split())),
    "capitals at every other letter": _each(_every_other_letter),
    "put 1 between the words": lambda sentence: " 1 ".join(sentence.split()),
    "stars for vowels": lambda sentence: re.sub(f"[{VOWELS}]", "*", sentence),
    "double the consonants": lambda sentence: re.sub(f"([^{VOWELS}\\W\\d_])", r"\1\1", sentence),
    "begin each word with a capital": _each(str.capitalize),
    "leave out the vowels": lambda sentence: re.sub(f"[{VOWELS}]", "", sentence),
    "add ly to each word": _each(lambda word: word + "ly"),
    "leave out the consonants": lambda sentence: re.sub(f"[^{VOWELS}\\W\\d_]", "", sentence),
    "say each word twice": _each(lambda word: f"{word} {word}"),
}
"""Instruction and what it does to a sentence in small letters without punctuation."""


class SentenceTransformations(MadeTexts):
    """900 train, 100 validation and 100 query texts of ten transformations by default; options: see the base."""

    POSITIONS = 144

    @classmethod
    def names(cls) -> Sequence[str]:
        """The instructions."""
        return tuple(TRANSFORMATIONS)

    @classmethod
    def text(cls, group: str, draw: np.random.Generator) -> Text:
        """A sentence and what it becomes."""
        words = sentence(draw)
        return Text(f"{group}: {words}\n", TRANSFORMATIONS[group](words), group)

    @classmethod
    def purpose(cls, group: str) -> str:
        """The same for all groups."""
        return "sentences"
