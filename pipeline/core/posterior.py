"""How likely a given label is wrong: the posterior of a noise channel, by what models and other rows say of a row.

A row has a true label y, which nobody sees, and a given one, g. Labels are given by a channel A[y, g] = P(g | y), the
same for all rows of a class (`pipeline.core.channel`). Four sources say what a row x may be:

* P(y | x), the mean of the probabilities of K fold models: flat minima, each found without one fold of the clean
  validation rows; their logits are multiplied by the one factor t that makes the loss on the rows held out least.
* T(y | x), what the model itself says, at `trained`.
* R(y | x), what the other train rows say by where they are among the features of `trained`, and once more by where they
  are among the inputs (`pipeline.core.others`). What they say is what is believed of them: q(y) proportional to
  P(y | x) A[y, g], or, where P repeats the given labels, the given label.

M = Π s^w over the sources that are believed, with the exponents w that clean rows call for (`pipeline.core.trust`). A
source is not believed if it repeats the given labels of the train rows: its honesty is below `HONEST`. What rows say
among features is, even so, while what is believed of them is not the given labels, and it stands for T wherever it is
there: it knows what T knows, but for the row's own label. The answer is f(y | x, g) proportional to M(y | x) A'[y, g],
with A' estimated again from M; where M itself repeats the given labels (honesty below `TELLING`), hardly one of them
would seem wrong, and A' is assumed. The score of a row is -ln f(g | x, g), in nats: unsigned, larger where the label is
more likely wrong.

Where the model is right, no score of (x, g) has a greater ROC AUC: the chance of a wrong label is 1 - f(g), the score
rises with it, and by the lemma of Neyman and Pearson a threshold on it is the most powerful test at each rate of false
alarms. Where A is symmetric and P alone is believed, f(g) = p / (p + c (1 - p)) with p = P(g | x) and a constant c:
the order is that of the loss of P. So plain loss at the flat minimum is the special case that ignores who confuses what
with what, and what other rows are.

Clean validation labels and given train labels enter; true train labels do not. Letters: N train rows, M validation
rows, C classes, D numbers of a point. Sources: Dawid and Skene 1979 and Patrini et al. 2017 (forward correction).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.core.calibration import softmax, temperature
from pipeline.core.channel import assumed, fitted, posterior_of
from pipeline.core.others import Points, kernel_of, others_say
from pipeline.core.trust import HONEST, combined, exponents, honesty

Array = np.ndarray[Any, Any]

TELLING = 0.1
"""Honesty of M below which it tells no channel."""
FOLDS, TRAINED, FEATURES, INPUTS = "folds", "trained", "rows by features", "rows by inputs"


@dataclass(frozen=True)
class Source:
    """What somebody says of the rows.

    Attributes:
        train: [N, C], rows sum to 1.
        clean: [M, C].
        honesty: 0 to 1.
    """

    train: Array
    clean: Array
    honesty: float


@dataclass(frozen=True)
class Posterior:
    """What is believed of each row.

    Attributes:
        surprise: -ln f(g | x, g), nats, [N].
        true: f(y | x, g), [N, C].
        channel: A', [C, C], rows sum to 1.
        exponents: w of each source that is believed.
        honesty: of each source.
        assumed: whether A' is assumed, as M repeats the given labels.
    """

    surprise: Array
    true: Array
    channel: Array
    exponents: dict[str, float]
    honesty: dict[str, float]
    assumed: bool = False


@dataclass(frozen=True)
class Clean:
    """Rows whose labels are right.

    Attributes:
        prior: P(y | x) by models that did not see the row, [M, C].
        trained: T(y | x) by log probabilities, [M, C].
        labels: [M].
        features: at `trained`, of unit length, [M, D]; None as for the train rows.
        inputs: [M, D']; the same.
    """

    prior: Array
    trained: Array
    labels: Array
    features: Array | None = None
    inputs: Points | None = None


@dataclass(frozen=True)
class Rows:
    """What is known of the train rows.

    Attributes:
        prior: P(y | x), [N, C].
        trained: T(y | x) by log probabilities, [N, C].
        given: [N].
        features: [N, D]; None: there are none.
        inputs: [N, D']; None: they are no points, or are not asked. Where some are not finite, none is asked.
    """

    prior: Array
    trained: Array
    given: Array
    features: Array | None = None
    inputs: Points | None = None

    def finite(self) -> Array:
        """Which rows are numbers in all that a model says of them, [N] bool."""
        known = [part for part in (self.prior, self.trained, self.features) if part is not None]
        return np.asarray(np.all([np.isfinite(part).all(1) for part in known], axis=0))

    def at(self, rows: Array) -> Rows:
        """Some of the rows."""
        parts = (self.prior, self.trained, self.given, self.features, self.inputs)
        return Rows(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def averaged(folds: Iterable[Array], factor: float) -> Array:
    """Mean over the fold models of softmax(factor x log probabilities), [N, C] each; one at a time is held."""
    total: Array | float = 0.0
    count = 0
    for fold in folds:
        total = total + softmax(fold.astype(np.float64) * factor)
        count += 1
    return np.asarray(total / count)


def judged(rows: Rows, clean: Clean | None, landmarks: Array) -> Posterior:
    """The posterior of every train row.

    Args:
        rows: train rows.
        clean: None: there are none that the folds did not see; M is P, and all confusions are alike.
        landmarks: positions of rows, see `pipeline.core.others`; none: other rows are not asked.
    """
    if clean is None:
        none = rows.given[:0]
        return _posterior(rows.prior, rows.given, fitted(rows.prior, rows.given, rows.prior, none), {FOLDS: 1.0}, {})
    sources = _sources(rows, clean, landmarks)
    believed = _believed(sources)
    w = exponents([source.clean for source in believed.values()], clean.labels)
    of_train = combined([source.train for source in believed.values()], w)
    of_clean = combined([source.clean for source in believed.values()], w)
    silent = honesty(of_train, rows.given, of_clean, clean.labels) < TELLING
    if silent:
        channel = assumed(rows.given, clean.labels, of_train.shape[1])
    else:
        channel = fitted(of_train, rows.given, of_clean, clean.labels)
    honest = {name: source.honesty for name, source in sources.items()}
    found = _posterior(of_train, rows.given, channel, dict(zip(believed, w.tolist(), strict=True)), honest)
    return replace(found, assumed=silent)


def _posterior(
    model: Array, given: Array, channel: Array, weights: dict[str, float], honest: dict[str, float]
) -> Posterior:
    true = posterior_of(model, given, channel)
    return Posterior(-np.log(true[np.arange(len(given)), given]), true, channel, weights, honest)


def _sources(rows: Rows, clean: Clean, landmarks: Array) -> dict[str, Source]:
    """All that is there."""
    factor = temperature(clean.trained, clean.labels)
    said = {
        FOLDS: (rows.prior, clean.prior),
        TRAINED: (softmax(rows.trained * factor), softmax(clean.trained * factor)),
    }
    if len(landmarks):
        beliefs = _beliefs(rows, clean)
        spaces = ((FEATURES, rows.features, clean.features), (INPUTS, rows.inputs, clean.inputs))
        for name, points, of_clean in spaces:
            if points is None or of_clean is None:
                continue
            kernel = kernel_of(points, landmarks)
            found = None if kernel is None else others_say(points, beliefs, of_clean, clean.labels, kernel)
            if found is not None:
                said[name] = found
    return {
        name: Source(train, held, honesty(train, rows.given, held, clean.labels))
        for name, (train, held) in said.items()
    }


def _beliefs(rows: Rows, clean: Clean) -> Array:
    """q of the train rows, [N, C]: by the folds, or the given label where these repeat it."""
    if honesty(rows.prior, rows.given, clean.prior, clean.labels) < HONEST:
        return np.eye(rows.prior.shape[1])[rows.given]
    return posterior_of(rows.prior, rows.given, fitted(rows.prior, rows.given, clean.prior, clean.labels))


def _believed(sources: dict[str, Source]) -> dict[str, Source]:
    """Those that do not repeat the given labels; the most honest one where all do.

    What `trained` knows the other rows say by its features, without the row's own label: then it is not asked itself.
    """
    told = sources[FOLDS].honesty >= HONEST
    found = {
        name: source
        for name, source in sources.items()
        if (source.honesty >= HONEST or (told and name == FEATURES)) and not (name == TRAINED and FEATURES in sources)
    }
    best = max(sources, key=lambda name: sources[name].honesty)
    return found or {best: sources[best]}
