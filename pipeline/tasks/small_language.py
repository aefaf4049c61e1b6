"""Language-model tasks on texts of our own making: a small decoder, trained from scratch on characters.

A subclass names its groups and makes a text of a group; the splits then hold as many texts of each group, all
different.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.tasks.base import Batch
from pipeline.tasks.language import Characters, Language, Text, TextSplits, Tokenizer
from pipeline.tasks.models import LanguageModel
from pipeline.tasks.noise import stream
from pipeline.tasks.options import whole
from pipeline.tasks.training import Recipe

TRIES = 1000
"""Draws for one new text: what is drawn again so often has been drawn dry."""


class SmallLanguage(Language):
    """A decoder of width D and two blocks on the tokens of the texts."""

    def __init__(
        self, splits: TextSplits, tokenizer: Tokenizer, positions: int, epochs: int, width: int, rate: float = 2e-3
    ) -> None:
        """Texts, T, and how long and how wide."""
        recipe = Recipe(whole("epochs", epochs), rate=rate, optimizer="adamw", batch_rows=32)
        super().__init__(splits, tokenizer, positions, recipe)
        self._width = whole("width", width, 4)

    def model(self) -> nn.Module:
        """The decoder."""
        return LanguageModel(len(self._tokenizer), self._positions, self._width)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the last hidden states over a text, [B, D]."""
        assert isinstance(model, LanguageModel)
        return self.mean_state(model.states(batch["tokens"]), batch["tokens"])


class MadeTexts(SmallLanguage):
    """Texts drawn group by group.

    Options:
        train_each, validation_each, query_each: texts of each group in each split.
        epochs, width: of the training and of the decoder.
        seed: of the texts.
    """

    POSITIONS = 128

    def __init__(
        self,
        train_each: int = 90,
        validation_each: int = 10,
        query_each: int = 10,
        epochs: int = 10,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        sizes = [whole("train_each", train_each), whole("validation_each", validation_each)]
        sizes.append(whole("query_each", query_each, 0))
        drawn = {group: self._drawn(group, sum(sizes), whole("seed", seed, 0)) for group in self.names()}
        ends = np.cumsum([0, *sizes])
        parts = [[text for texts in drawn.values() for text in texts[first:last]] for first, last in pairwise(ends)]
        letters = Characters([text.prompt + text.completion for part in parts for text in part])
        super().__init__(TextSplits(*parts), letters, self.POSITIONS, epochs, width)

    @classmethod
    @abstractmethod
    def names(cls) -> Sequence[str]:
        """The groups."""

    @classmethod
    @abstractmethod
    def text(cls, group: str, draw: np.random.Generator) -> Text:
        """One text of a group."""

    def sources(self) -> str:
        """The texts follow from the options."""
        return "made by the task"

    def _drawn(self, group: str, count: int, seed: int) -> list[Text]:
        draw = stream(seed, f"texts of {group}")
        found: dict[tuple[str, str], Text] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                return list(found.values())
            text = self.text(group, draw)
            if len(text.prompt) + len(text.completion) + 2 <= self.POSITIONS:
                found.setdefault((text.prompt, text.completion), text)
        raise DataError(f"expected {count} different texts of {group!r}, got {len(found)}; ask for fewer of each group")
