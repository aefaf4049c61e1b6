"""Texts as word numbers: lower case, words and single other signs; 0 pads, 1 is a word that the vocabulary lacks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

PADDING, UNKNOWN = 0, 1
_PIECES = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?|\d+|[^\w\s]|_")


def pieces(text: str) -> list[str]:
    """Words, numbers and single signs."""
    return _PIECES.findall(text.lower())


def frequent(texts: Iterable[str], size: int) -> list[str]:
    """The `size` most frequent words that occur at least twice; equally frequent ones in order of the alphabet."""
    counts = Counter(word for text in texts for word in pieces(text))
    return sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))[:size]


@dataclass(frozen=True)
class Vocabulary:
    """Word to number, from 2 up.

    Attributes:
        numbers: the words that are known.
        positions: T; longer texts are cut, shorter ones padded.
    """

    numbers: dict[str, int]
    positions: int

    @classmethod
    def of(cls, texts: Iterable[str], size: int, positions: int) -> Vocabulary:
        """The words of `frequent`."""
        return cls({word: number for number, word in enumerate(frequent(texts, size), UNKNOWN + 1)}, positions)

    def __len__(self) -> int:
        """V, with padding and unknown."""
        return len(self.numbers) + 2

    def encode(self, text: str) -> Tensor:
        """[T] int64; a text without any word becomes one unknown word, for a row of padding alone has no mean."""
        numbers = [self.numbers.get(word, UNKNOWN) for word in pieces(text)[: self.positions]] or [UNKNOWN]
        return torch.tensor(numbers + [PADDING] * (self.positions - len(numbers)))
