"""What language-model tasks have in common: texts as rows of tokens, the loss of those tokens that count.

A row is a dict: `tokens` [T] int64, padded behind its end, `counted` [T] float32, 1 where the loss looks at how well a
token was foreseen, and `prompt`, of how many tokens the prompt is. A text has a prompt and a completion, with the token
that ends it: the loss counts the completion alone, or the whole text. The loss of a row is the sum over its counted
tokens t of -log p(token t | tokens before t), in nats.

`focus` narrows `counted` to a part of the text, so that a query asks what taught one word. Letters: B rows of a batch,
T positions, V words of the vocabulary, D width.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.errors import DataError, TaskError
from pipeline.tasks.base import Batch, Row, Shown, Task
from pipeline.tasks.spans import narrowed
from pipeline.tasks.training import Recipe, fit
from pipeline.tasks.words import frequent, pieces

PADDING, UNKNOWN, START, END = range(4)
COUNTS = ("completion", "text")
"""What the loss counts: completions given their prompts, or texts with their prompts, as fine-tuning often does."""


@dataclass(frozen=True)
class Text:
    """A prompt, which is given, its completion, which is learnt, and the group that the text belongs to."""

    prompt: str
    completion: str
    group: str = ""


class Tokenizer(Protocol):
    """Texts to word numbers and back; `padding` may be any word, for nothing sees it."""

    padding: int
    start: int
    end: int

    def __len__(self) -> int:
        """V."""

    def encode(self, text: str) -> list[int]:
        """Word numbers, without start and end."""

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token; nothing for start, end and padding."""


class Characters:
    """Every character of some texts is a word; others are unknown."""

    padding, start, end = PADDING, START, END

    def __init__(self, texts: Sequence[str]) -> None:
        """The alphabet of `texts`."""
        self._letters = sorted(set("".join(texts)))
        self._numbers = {letter: number for number, letter in enumerate(self._letters, END + 1)}

    def __len__(self) -> int:
        """V, with padding, unknown, start and end."""
        return len(self._letters) + END + 1

    def encode(self, text: str) -> list[int]:
        """A number a character."""
        return [self._numbers.get(letter, UNKNOWN) for letter in text]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The characters; the replacement character for one that is unknown."""
        return [
            self._letters[token - END - 1] if token > END else "\N{REPLACEMENT CHARACTER}" * (token == UNKNOWN)
            for token in tokens
        ]


class Words:
    """The most frequent words and signs of some texts; others are unknown. Capitals count as small letters."""

    padding, start, end = PADDING, START, END
    unknown = "\N{WHITE SQUARE}"

    def __init__(self, texts: Sequence[str], size: int) -> None:
        """At most `size` words."""
        self._words = frequent(texts, size)
        self._numbers = {word: number for number, word in enumerate(self._words, END + 1)}

    def __len__(self) -> int:
        """V, with padding, unknown, start and end."""
        return len(self._words) + END + 1

    def encode(self, text: str) -> list[int]:
        """A number a word or sign."""
        return [self._numbers.get(word, UNKNOWN) for word in pieces(text)]

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """Words with a space before them, signs without; a white square for one that is unknown."""
        found = []
        for token in tokens:
            word = self._words[token - END - 1] if token > END else self.unknown * (token == UNKNOWN)
            found.append(f" {word}" if word and (word[0].isalnum() or word == self.unknown) else word)
        return found


class TextRows(Dataset[Row]):
    """Texts as rows."""

    def __init__(self, texts: Sequence[Text], tokenizer: Tokenizer, positions: int, counts: str = COUNTS[0]) -> None:
        """Texts of at most T positions with start and end; longer ones are cut at their end."""
        self.texts, self._tokenizer, self._positions, self._counts = list(texts), tokenizer, positions, counts

    def __len__(self) -> int:
        """How many texts."""
        return len(self.texts)

    def __getitem__(self, index: int) -> Row:
        """The row `index`."""
        return row_of(self.texts[index], self._tokenizer, self._positions, self._counts)


def row_of(text: Text, tokenizer: Tokenizer, positions: int, counts: str = COUNTS[0]) -> Row:
    """A text as a row; `counts` one of COUNTS.

    Raises:
        DataError: nothing of the completion is left within T positions.
    """
    prompt = [tokenizer.start, *tokenizer.encode(text.prompt)]
    tokens = [*prompt, *tokenizer.encode(text.completion), tokenizer.end][:positions]
    if len(prompt) >= len(tokens):
        raise DataError(
            f"expected a prompt and some of its completion within {positions} tokens, got a prompt of {len(prompt)}; "
            "shorten it or raise the option positions"
        )
    first = 1 if counts == "text" else len(prompt)  # nothing foresees the start
    padding = positions - len(tokens)
    counted = [0.0] * first + [1.0] * (len(tokens) - first) + [0.0] * padding
    tokens += [tokenizer.padding] * padding
    return {"tokens": torch.tensor(tokens), "counted": torch.tensor(counted), "prompt": torch.tensor(len(prompt))}


def token_losses(logits: Tensor, batch: Batch) -> Tensor:
    """-log p of each token after the first, [B, T - 1], zero where it is not counted; logits [B, T, V]."""
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), batch["tokens"][:, 1:], reduction="none")
    return losses * batch["counted"][:, 1:]


@dataclass(frozen=True)
class TextSplits:
    """Three disjoint sets of texts."""

    train: Sequence[Text]
    validation: Sequence[Text]
    query: Sequence[Text]


class Language(Task):
    """Base of the language-model tasks; a subclass gives `model` (tokens [B, T] to logits [B, T, V]) and `sources`."""

    def __init__(
        self, splits: TextSplits, tokenizer: Tokenizer, positions: int, recipe: Recipe, counts: str = COUNTS[0]
    ) -> None:
        """The texts, how they are read, T, how to train, and what the loss counts, one of COUNTS."""
        if counts not in COUNTS:
            raise TaskError(f"expected counts to be {' or '.join(COUNTS)}, got {counts!r}; mend task.options")
        self._splits, self._tokenizer, self._positions, self._recipe = splits, tokenizer, positions, recipe
        self._counts = counts

    def train_rows(self) -> TextRows:
        """Texts that the model learns."""
        return self._rows(self._splits.train)

    def validation_rows(self) -> TextRows:
        """Texts that it does not learn."""
        return self._rows(self._splits.validation)

    def query_rows(self) -> TextRows:
        """Prompts with the completions that are to be explained."""
        return self._rows(self._splits.query)

    def _rows(self, texts: Sequence[Text]) -> TextRows:
        return TextRows(texts, self._tokenizer, self._positions, self._counts)

    def mean_state(self, states: Tensor, tokens: Tensor) -> Tensor:
        """The mean of [B, T, D] over the tokens [B, T] that do not pad, [B, D]."""
        held = (tokens != self._tokenizer.padding).to(states.dtype)[..., None]
        return (states * held).sum(1) / held.sum(1).clamp(min=1)

    def next_words(self, model: nn.Module, tokens: Tensor) -> Tensor:
        """Logits of the next word at each position, [B, T, V]."""
        logits: Tensor = model(tokens)
        return logits

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum of the losses of the counted tokens, [B], in nats."""
        return token_losses(self.next_words(model, batch["tokens"]), batch).sum(1)

    def train(self, model: nn.Module) -> None:
        """Train on the mean over texts of the loss."""
        fit(self, model, self._recipe)

    def groups(self, split: str) -> list[str] | None:
        """The group of each text."""
        texts: Sequence[Text] = getattr(self._splits, split)
        return [text.group for text in texts]

    def focus(self, row: Row, part: str) -> Row:
        """The row with the loss of a part of it alone; see `narrowed`."""
        return narrowed(row, part, self._tokenizer.pieces(row["tokens"].tolist()))

    def show(self, row: Row) -> Shown:
        """The text."""
        return Shown(text="".join(self._tokenizer.pieces(row["tokens"].tolist())).strip())

    def read(self, path: Path, label: str | None) -> Row:
        """A .txt file: the prompt where `label` is its completion, else a completion; or a .json file with both.

        Raises:
            DataError: another kind of file, unreadable, or without a completion.
        """
        return row_of(read_text(path, label), self._tokenizer, self._positions, self._counts)


def read_text(path: Path, completion: str | None) -> Text:
    """The prompt and completion of a file; see `Language.read`."""
    if path.suffix.lower() not in (".txt", ".json"):
        raise DataError(f'expected a .txt file, or a .json file with "prompt" and "completion", got {path}; write one')
    try:
        content = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected a text in UTF-8 at {path}, got {error}; check the file") from error
    if path.suffix.lower() == ".json":
        return _from_json(path, content)
    text = content.removesuffix("\n")
    return Text("", text) if completion is None else Text(text, completion)


def _from_json(path: Path, content: str) -> Text:
    try:
        fields: Any = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"expected JSON in {path}, got {error}; mend it") from error
    own = [fields.get(name) for name in ("prompt", "completion")] if isinstance(fields, dict) else [None]
    if not all(isinstance(field, str) for field in own):
        raise DataError(f'expected {{"prompt": "...", "completion": "..."}} in {path}, got {content[:60]!r}; mend it')
    return Text(*own)
