"""Language-model tasks on texts of our own making: a small decoder on characters.

It learns plain sentences from scratch first, as a pretrained model has learnt its language, and is then fine-tuned on
the texts of the task. A subclass names its groups and makes a text of a group; the splits then hold as many texts of
each group, all different within it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from torch import Tensor, nn

from pipeline.errors import DataError
from pipeline.tasks.base import Batch
from pipeline.tasks.language import COUNTS, Characters, Language, Text, TextSplits, Tokenizer
from pipeline.tasks.models import LanguageModel
from pipeline.tasks.noise import stream
from pipeline.tasks.options import whole
from pipeline.tasks.plain_sentences import plain_texts as sentences
from pipeline.tasks.training import Recipe

TRIES = 1000
"""Draws for one new text: what is drawn again so often has been drawn dry."""


class SmallLanguage(Language):
    """A decoder of width D and two blocks on the tokens of the texts."""

    def __init__(
        self,
        splits: TextSplits,
        tokenizer: Tokenizer,
        positions: int,
        epochs: int,
        width: int,
        rate: float = 2e-3,
        counts: str = COUNTS[0],
    ) -> None:
        """Texts, T, how long, how wide and how fast, and what the loss counts."""
        recipe = Recipe(whole("epochs", epochs), rate=rate, optimizer="adamw", batch_rows=32)
        super().__init__(splits, tokenizer, positions, recipe, counts)
        self._width = whole("width", width, 4)

    def model(self) -> nn.Module:
        """The decoder."""
        return LanguageModel(len(self._tokenizer), self._positions, self._width)

    def features(self, model: nn.Module, batch: Batch) -> Tensor:
        """The mean of the last hidden states over a text, [B, D]."""
        assert isinstance(model, LanguageModel)
        return self.mean_state(model.states(batch["tokens"]), batch["tokens"])


class PlainTexts(SmallLanguage):
    """What a decoder is pretrained on."""

    def sources(self) -> str:
        """The texts follow from the options."""
        return "made by the task"


class MadeTexts(SmallLanguage):
    """Texts drawn group by group.

    Options:
        train_each, validation_each, query_each: texts of each group in each split.
        plain_texts, plain_epochs, plain_rate: of a training on plain sentences that comes first; plain_epochs 0: none.
        epochs, rate: of the training on the texts. Few and slow, for fine-tuning of a pretrained model takes few steps.
        width: of the decoder.
        counts: what the loss counts: `text`, the prompt too, as DataInf's code has it, or `completion`.
        seed: of the texts.
    """

    POSITIONS = 128

    def __init__(
        self,
        train_each: int = 90,
        validation_each: int = 10,
        query_each: int = 10,
        plain_texts: int = 2000,
        plain_epochs: int = 10,
        plain_rate: float = 3e-3,
        epochs: int = 1,
        rate: float = 3e-4,
        width: int = 64,
        counts: str = "text",
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        sizes = [whole("train_each", train_each), whole("validation_each", validation_each)]
        sizes.append(whole("query_each", query_each, 0))
        drawn = {group: self._drawn(group, sum(sizes), whole("seed", seed, 0)) for group in self.names()}
        ends = np.cumsum([0, *sizes])
        parts = [[text for texts in drawn.values() for text in texts[first:last]] for first, last in pairwise(ends)]
        plain = sentences(whole("plain_texts", plain_texts), self.POSITIONS - 2, seed)
        letters = Characters([text.prompt + text.completion for part in [*parts, plain] for text in part])
        super().__init__(TextSplits(*parts), letters, self.POSITIONS, epochs, width, rate, counts)
        own = TextSplits(plain, (), ()), letters, self.POSITIONS, plain_epochs, width, plain_rate
        self._plain = PlainTexts(*own) if whole("plain_epochs", plain_epochs, 0) else None

    def train(self, model: nn.Module) -> None:
        """Train on plain sentences, then on the texts."""
        if self._plain is not None:
            self._plain.train(model)
        super().train(model)

    @classmethod
    @abstractmethod
    def names(cls) -> Sequence[str]:
        """The groups."""

    @classmethod
    @abstractmethod
    def text(cls, group: str, draw: np.random.Generator) -> Text:
        """One text of a group."""

    @classmethod
    def purpose(cls, group: str) -> str:
        """Names the stream from which the texts of a group are drawn."""
        return f"texts of {group}"

    def sources(self) -> str:
        """The texts follow from the options."""
        return "made by the task"

    def _drawn(self, group: str, count: int, seed: int) -> list[Text]:
        draw = stream(seed, self.purpose(group))
        found: dict[tuple[str, str], Text] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                return list(found.values())
            text = self.text(group, draw)
            if len(text.prompt) + len(text.completion) + 2 <= self.POSITIONS:
                found.setdefault((text.prompt, text.completion), text)
        raise DataError(f"expected {count} different texts of {group!r}, got {len(found)}; ask for fewer of each group")
