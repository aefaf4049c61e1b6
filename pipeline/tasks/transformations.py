"""Ten transformations of sentences, each a group: DataInf's protocol (Kwon et al., ICLR 2024) with texts of our own.

A prompt names the transformation and gives a sentence, the completion is the sentence transformed. Which train texts
taught it is known: those of the same transformation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.tasks.language import Text
from pipeline.tasks.small_language import MadeTexts

VOWELS = "aeiou"

SUBJECTS = (
    "the old gardener", "a young pilot", "my neighbour", "the tall waiter", "her teacher", "a quiet student",
    "the baker", "our captain", "a brave sailor", "the tired nurse", "his cousin", "the clever engineer",
)  # fmt: skip
VERBS = (
    "painted", "carried", "found", "watched", "repaired", "sold", "borrowed", "cleaned", "lost", "admired", "moved",
    "drew",
)  # fmt: skip
OBJECTS = (
    "a wooden boat", "the green door", "two apples", "an empty box", "the silver key", "a heavy table", "the map",
    "some bread", "a paper kite", "the broken clock", "three letters", "a small mirror",
)  # fmt: skip
PLACES = ("near the river", "at noon", "in the yard", "by the station", "on Monday", "after the storm")


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
        sentence = " ".join(str(draw.choice(words)) for words in (SUBJECTS, VERBS, OBJECTS, PLACES))
        return Text(f"{group}: {sentence.lower()}\n", TRANSFORMATIONS[group](sentence.lower()), group)
