"""The cells of the evidence: a data set, a kind of noise, and a model that learnt its noise by heart or did not.

`choice` says whether the estimator `wrong` was chosen with a look at results on such rows (the same data and kind of
model, in other sizes; docs/methods.md); all other cells are confirmation: nothing was fitted to them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.tasks.vader_archive import DOMAINS

SOURCES = {
    "LOWLAND_VADER": "vaderSentiment-3.3.2.tar.gz (pip download --no-deps --no-binary :all: vaderSentiment==3.3.2)",
    "LOWLAND_FASHION": "the directory of Fashion-MNIST's four idx files (Debian: dataset-fashion-mnist)",
    "LOWLAND_LETTERS": "LetterRecognition.rda (Debian: r-cran-mlbench) or UCI's letter-recognition.data",
    "LOWLAND_CIFAR": "the directory of CIFAR-10's python batches and CIFAR-10_human.pt",
}
"""Environment variables that name data; where one is not set, the place where Debian's package puts them is tried."""

USUAL = {
    "LOWLAND_FASHION": Path("/usr/share/datasets/fashion-mnist"),
    "LOWLAND_LETTERS": Path("/usr/lib/R/site-library/mlbench/data/LetterRecognition.rda"),
}
SMALL = {"train_size": 1000, "validation_size": 300, "query_size": 50}
ENCODED = "evidence_sentences.py:Encoded"


@dataclass(frozen=True)
class Cell:
    """A data set, its noise and a regime.

    Attributes:
        data: what people call it.
        noise: what its wrong labels come from, planted or human, and how many where that is planned.
        heart: whether the training is meant to learn the noise by heart.
        task: built-in task, or ENCODED.
        options: of the task.
        source: environment variable of its file or directory, or "" where a package brings the data.
        choice: whether `wrong` was chosen on such rows.
        small: whether it is part of `--small`.
    """

    data: str
    noise: str
    heart: bool
    task: str
    options: dict[str, Any] = field(hash=False)
    source: str = ""
    choice: bool = False
    small: bool = True

    @property
    def name(self) -> str:
        """Data, noise and regime."""
        return f"{self.data}, {self.noise}, {'' if self.heart else 'not '}learnt by heart"

    @property
    def role(self) -> str:
        """Choice or confirmation."""
        return "choice" if self.choice else "confirmation"

    @property
    def slug(self) -> str:
        """A file name."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())

    def path(self) -> Path | None:
        """Where its data are; None: nowhere."""
        named = os.environ.get(self.source)
        place = Path(named) if named else USUAL.get(self.source)
        return place.resolve() if place is not None and place.exists() else None

    def there(self) -> bool:
        """Whether its data are at hand."""
        return not self.source or self.path() is not None

    def options_of(self, small: bool, seed: int) -> dict[str, Any]:
        """Options of its task, in a size."""
        path = {"path": str(self.path())} if self.source else {}
        return {**self.options, **(SMALL if small else {}), **path, "seed": seed}


PLANTED: tuple[tuple[str, str, str, tuple[int, int], dict[str, Any]], ...] = (
    ("digits", "digits", "", (200, 10), {}),
    ("letters", "letters", "LOWLAND_LETTERS", (80, 6), {}),
    ("Fashion-MNIST", "fashion_mnist", "LOWLAND_FASHION", (60, 4), {"side": 14}),
    ("MNIST", "mnist5k", "", (60, 3), {}),
)
"""Data, task, source, epochs that learn the noise by heart and that do not, more options."""

MINILM = "sentences, MiniLM"
CHOSEN_ON = {
    ("digits", "uniform", True),
    ("digits", "confusable", True),
    ("digits", "confusable", False),
    ("digits", "instance", False),
    ("letters", "uniform", True),
    ("letters", "uniform", False),
    ("letters", "instance", True),
    ("letters", "confusable", True),
    ("Fashion-MNIST", "uniform", True),
    ("Fashion-MNIST", "confusable", True),
    ("Fashion-MNIST", "confusable", False),
    ("Fashion-MNIST", "instance", True),
    ("Fashion-MNIST", "instance", False),
    ("MNIST", "confusable", True),
    ("MNIST", "confusable", False),
    ("sentences, transformer", "one rater", True),
    ("sentences, transformer", "one rater", False),
    ("sentences, transformer, agreement 60 %", "worst of three", True),
    ("sentences, transformer, agreement 60 %", "worst of three", False),
} | {
    (f"{MINILM}{of}", labels, heart)
    for of, labels in (
        ("", "one rater"),
        ("", "worst of three"),
        (", agreement 60 %", "one rater"),
        (", agreement 60 %", "worst of three"),
        (", films", "critic"),
        (", tweets", "one rater"),
        (", movie", "one rater"),
    )
    for heart in (True, False)
}
"""Data, kind of noise and regime that `wrong` was chosen on, by one seed or two (some of Fashion-MNIST made harder)."""

SMALL_PLANTED = {
    ("digits", "uniform", True),
    ("digits", "confusable", False),
    ("letters", "confusable", True),
    ("Fashion-MNIST", "uniform", False),
    ("MNIST", "instance", False),
}
SMALL_HUMAN = {
    ("transformer", "worst of three", 0.6, False),
    ("MiniLM", "one rater", 0.0, True),
    ("MiniLM", "one rater", 0.0, False),
    ("MiniLM", "worst of three", 0.6, False),
}
"""Model, labels, least agreement and regime: with the planted ones, half an hour on two cores."""


def _planted() -> list[Cell]:
    found = []
    for kind in ("uniform", "confusable", "instance"):
        for heart in (True, False):
            for data, task, source, epochs, more in PLANTED:
                options = {"noise": kind, "noise_rate": 0.4, "epochs": epochs[0 if heart else 1], **more}
                key = (data, kind, heart)
                flags = {"choice": key in CHOSEN_ON, "small": key in SMALL_PLANTED}
                found.append(Cell(data, f"planted {kind} 40 %", heart, task, options, source, **flags))
    return found


MODELS = {
    "transformer": ("vader", {True: {"encoder": "scratch", "epochs": 15}, False: {"encoder": "scratch", "epochs": 3}}),
    "MiniLM": (ENCODED, {True: {"hidden": 64, "epochs": 100}, False: {"hidden": 0, "epochs": 20}}),
}
"""What reads sentences: task, and options by which it learns by heart (True) or does not."""


OF_A_DOMAIN = {"train_size": 2000, "query_size": 500}
"""The smallest domain has 3,673 sentences."""


def _sentences() -> list[Cell]:
    found = []
    for labels in ("one rater", "worst of three"):
        for agreement in (0.0, 0.6):
            of = f", agreement {agreement:.0%}".replace("%", " %") if agreement else ""
            for heart in (True, False):
                for model in MODELS:
                    part = (model, labels, agreement, heart) in SMALL_HUMAN
                    found.append(_read(model, labels, heart, part, of, agreement=agreement))
    for model in MODELS:
        found += [_read(model, "critic", heart, False, ", films") for heart in (True, False)]
    for domain in DOMAINS:
        own = {"domains": [domain], **OF_A_DOMAIN}
        found += [_read("MiniLM", "one rater", heart, False, f", {domain}", **own) for heart in (True, False)]
    return found


def _read(model: str, labels: str, heart: bool, small: bool, of: str, **options: Any) -> Cell:
    """A cell of sentences."""
    task, by_heart = MODELS[model]
    data, options = f"sentences, {model}{of}", {"labels": labels, **options, **by_heart[heart]}
    chosen = (data, labels, heart) in CHOSEN_ON
    return Cell(data, f"human ({labels})", heart, task, options, "LOWLAND_VADER", chosen, small)


def _cifar() -> list[Cell]:
    return [
        Cell(
            "CIFAR-10N",
            f"human ({noise})",
            heart,
            "cifar10n",
            {"noise": noise, "epochs": 60 if heart else 10, "augment": not heart, "train_size": 10000},
            "LOWLAND_CIFAR",
            small=False,
        )
        for noise in ("aggregate", "random1", "worst")
        for heart in (True, False)
    ]


CELLS = [*_planted(), *_sentences(), *_cifar()]
CLOTHES = tuple(
    cell
    for cell in CELLS
    if cell.data == "Fashion-MNIST" and cell.heart and not cell.noise.startswith("planted instance")
)
"""The cells of the question whether second order beats first, in the sizes of the paper."""
SENTENCES = tuple(cell for cell in CELLS if cell.task == ENCODED)
"""Those of human noise that do not take a transformer's training."""
ONE_OR_WORST = (("one rater", 0.0), ("worst of three", 0.6))
"""The noisiest labels of all sentences, and the least noisy ones of those on which people agree."""
TRANSFORMER = tuple(
    cell
    for cell in CELLS
    if cell.task == "vader" and (cell.options["labels"], cell.options.get("agreement")) in ONE_OR_WORST
)
"""Those whose encoder is trained, too: at the small size, as a run takes a quarter of an hour there."""
