"""Which novel taught this passage: a language model of several sources whose texts are known.

Each source is cut into passages of as many words; whole stretches of passages go to a split, so that a query's
neighbours in the book are not among the train rows. The group of a passage is its source.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.tasks.austen import files_of, read_sources
from pipeline.tasks.language import Text, TextSplits, Words
from pipeline.tasks.noise import stream
from pipeline.tasks.options import whole
from pipeline.tasks.small_language import SmallLanguage
from pipeline.tasks.words import pieces

STRETCH = 20
"""Passages that stay together."""


class Novels(SmallLanguage):
    """A decoder from scratch on passages of novels, the same number of each.

    Options:
        path: Rdata.rdb of Debian's r-cran-janeaustenr, or a directory of .txt files, one a source; null: where the
            package installs it.
        train_each, validation_each, query_each: passages of each source in each split.
        words: words of a passage.
        vocabulary: at most so many words are known.
        epochs, width: of the training and of the decoder.
        seed: of the splits.
    """

    def __init__(
        self,
        path: Path | None = None,
        train_each: int = 500,
        validation_each: int = 40,
        query_each: int = 20,
        words: int = 48,
        vocabulary: int = 4000,
        epochs: int = 6,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        """Options: see the class."""
        self._path = None if path is None else Path(path)
        sizes = (whole("train_each", train_each), whole("validation_each", validation_each),
                 whole("query_each", query_each, 0))  # fmt: skip
        parts: list[list[Text]] = [[], [], []]
        for source, text in read_sources(self._path).items():
            for part, own in zip(parts, _split(source, text, sizes, whole("words", words, 2), seed), strict=True):
                part += own
        known = Words([text.completion for text in parts[0]], whole("vocabulary", vocabulary))
        super().__init__(TextSplits(*parts), known, words + 2, epochs, width)

    def sources(self) -> list[str | Path]:
        """The files of the texts."""
        return files_of(self._path)


def _split(source: str, text: str, sizes: Sequence[int], words: int, seed: int) -> list[list[Text]]:
    """Passages of a source for each split, in whole stretches."""
    own = pieces(text)
    passages = [" ".join(own[start : start + words]) for start in range(0, len(own) - words + 1, words)]
    stretches = [passages[start : start + STRETCH] for start in range(0, len(passages) - STRETCH + 1, STRETCH)]
    needed = sum(-(-size // STRETCH) for size in sizes)
    if needed > len(stretches):
        raise DataError(
            f"expected {needed * STRETCH} passages of {words} words in {source!r}, got {len(passages)}; ask for fewer"
        )
    order = stream(seed, f"stretches of {source}").permutation(len(stretches)).tolist()
    found = []
    for size in sizes:
        taken = [order.pop() for _ in range(-(-size // STRETCH))]
        found.append([Text("", passage, source) for i in sorted(taken) for passage in stretches[i]][:size])
    return found
