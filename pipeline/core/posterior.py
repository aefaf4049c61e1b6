"""How likely a given label is wrong: the posterior of a noise channel at flat minima, with the neighbours' word.

A row has a true label y, which nobody sees, and a given one, g. Labels are given by a channel A[y, g] = P(g | y), the
same for all rows of a class. Four things are known of a row x:

* P(y | x), the mean of the probabilities of K fold models: flat minima, each found without one fold of the clean
  validation rows; their logits are multiplied by the one factor t that makes the loss on the rows held out least.
* q(y | x, g) proportional to P(y | x) A[y, g]; A comes from these by EM, its rows shrunk towards the symmetric channel.
* n(y | x), the mean of q over the k rows whose features are nearest by cosine, x itself not among them.
* T(y | x), what the model itself says, at `trained`.

The answer is f(y | x, g) proportional to M(y | x) A'[y, g], with M = P^(1 - c) T^c n^d and A' estimated again with M in
place of P, and the score of a row is -ln f(g | x, g), in nats: unsigned, larger where the label is more likely wrong.
How far T and n are trusted, c and d, is learnt on clean rows (`pipeline.core.trust`): where the labels are known by
heart, M is P n.

Where the model is right, no score of (x, g) has a greater ROC AUC: the chance of a wrong label is 1 - f(g), the score
rises with it, and by the lemma of Neyman and Pearson a threshold on it is the most powerful test at each rate of false
alarms. Where A is symmetric and there are no neighbours, f(g) = p / (p + c (1 - p)) with p = P(g | x) and a constant c:
the order is that of the loss of P. So plain loss at the flat minimum is the special case that ignores who confuses what
with what, and what similar rows are.

Clean validation labels and given train labels enter; true train labels do not. Letters: N train rows, M validation
rows, C classes, D features, k neighbours. Sources: channel and EM as in Dawid and Skene 1979 and Patrini et al. 2017
(forward correction); temperature as in Guo et al. 2017.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipeline.core.trust import BY_HEART, TINY, Trust, honesty, learnt, mixed, normalised, with_neighbours

Array = np.ndarray[Any, Any]

ROUNDS = 30
"""Of EM; the channel moves by less than the prior's weight long before."""

BLOCK, TILE = 512, 32_768
"""Rows whose neighbours are looked for at a time, and rows that they are compared with: 64 MB of cosines, however many
rows there are. Fixed, so that no budget decides between neighbours whose cosines differ in the last digit."""


@dataclass(frozen=True)
class Posterior:
    """What is believed of each row.

    Attributes:
        surprise: -ln f(g | x, g), nats, [N].
        true: f(y | x, g), [N, C].
        channel: A', [C, C], rows sum to 1.
        trust: in neighbours and in the trained model.
    """

    surprise: Array
    true: Array
    channel: Array
    trust: Trust


@dataclass(frozen=True)
class Clean:
    """Rows whose labels are right.

    Attributes:
        prior: P(y | x) by models that did not see the row, [M, C].
        trained: T(y | x) by log probabilities, [M, C].
        features: at `trained` alone, of unit length, [M, D']: the first D' of the train rows' features are the same.
        labels: [M].
    """

    prior: Array
    trained: Array
    features: Array | None
    labels: Array


@dataclass(frozen=True)
class Rows:
    """What is known of the train rows.

    Attributes:
        prior: P(y | x), [N, C].
        given: [N].
        features: [N, D]; None: there are none, and neighbours say nothing.
        trained: T(y | x) by log probabilities, [N, C]; needed where clean rows are there.
    """

    prior: Array
    given: Array
    features: Array | None = None
    trained: Array | None = None

    def finite(self) -> Array:
        """Which rows are numbers in all that is known of them, [N] bool."""
        known = [part for part in (self.prior, self.features, self.trained) if part is not None]
        return np.asarray(np.all([np.isfinite(part).all(1) for part in known], axis=0))

    def at(self, rows: Array) -> Rows:
        """Some of the rows."""
        parts = (self.prior, self.given, self.features, self.trained)
        return Rows(*(None if part is None else part[rows] for part in parts))  # type: ignore[arg-type]


def softmax(logits: Array) -> Array:
    """Probabilities over the last axis."""
    risen = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(risen / risen.sum(-1, keepdims=True))


def temperature(log_probabilities: Array, labels: Array) -> float:
    """The factor on logits, 1/20 to 20, that makes the mean loss on held-out rows least.

    Args:
        log_probabilities: [M, C].
        labels: [M], clean.
    """
    low, high = -np.log(20), np.log(20)
    golden = (np.sqrt(5) - 1) / 2

    def loss(log_factor: float) -> float:
        chosen = softmax(log_probabilities * np.exp(log_factor))[np.arange(len(labels)), labels]
        return float(-np.log(chosen + TINY).mean())

    for _ in range(40):  # the loss is convex in the factor, so that it has one minimum
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if loss(left) < loss(right) else (left, high)
    return float(np.exp((low + high) / 2))


def averaged(folds: Iterable[Array], factor: float) -> Array:
    """Mean over the fold models of softmax(factor x log probabilities), [N, C] each; one at a time is held."""
    total: Array | float = 0.0
    count = 0
    for fold in folds:
        total = total + softmax(fold.astype(np.float64) * factor)
        count += 1
    return np.asarray(total / count)


def channel(prior: Array, given: Array, weight: float) -> Array:
    """A[y, g] by EM, each row shrunk towards the symmetric channel of the same accuracy.

    Args:
        prior: P(y | x), [N, C].
        given: [N] given labels.
        weight: of the symmetric channel, in rows.
    """
    classes = prior.shape[1]
    estimate = normalised(_counts(prior, given) + 1 / classes)
    for _ in range(ROUNDS):
        counts = _counts(posterior_of(prior, given, estimate), given)
        accuracy = np.trace(counts) / counts.sum()
        symmetric = np.full((classes, classes), (1 - accuracy) / max(1, classes - 1))
        np.fill_diagonal(symmetric, accuracy)
        estimate = normalised(counts + weight * symmetric + 1 / classes)
    return estimate


def posterior_of(prior: Array, given: Array, estimate: Array) -> Array:
    """P(y | x, g), proportional to P(y | x) A[y, g], [N, C]."""
    return normalised(prior * estimate[:, given].T + TINY)


def _counts(weights: Array, given: Array) -> Array:
    """Sum of the rows' weights [N, C] under each given label: [C, C], true by given."""
    counts = np.zeros((weights.shape[1], weights.shape[1]))
    np.add.at(counts.T, given, weights)
    return counts


def nearest(features: Array, count: int) -> Array:
    """The `count` other rows nearest to each by cosine, [N, count], by position.

    Time grows with N^2 D; memory beside the answer does not grow with N.

    Args:
        features: [N, D], any length.
        count: k, at most N - 1.
    """
    return _nearest(features, features, np.arange(len(features)), count)


def nearest_to(points: Array, features: Array, count: int) -> Array:
    """The rows nearest to each of other points [M, D], [M, count], by position; see `nearest`."""
    return _nearest(points, features, np.full(len(points), -1), count)


def _nearest(points: Array, features: Array, own: Array, count: int) -> Array:
    """Those of all points; `own` says which row a point is itself, -1: none."""
    asked, rows = (torch.from_numpy(np.ascontiguousarray(part, dtype=np.float32)) for part in (points, features))
    places = torch.from_numpy(own)
    cuts = [slice(start, start + BLOCK) for start in range(0, len(asked), BLOCK)]
    blocks = [_nearest_of(asked[cut], places[cut], rows, count) for cut in cuts]
    return torch.cat(blocks).sort(dim=1).values.numpy()


def search_bytes(rows: int, width: int) -> int:
    """What `nearest` holds beside features and answer: a block's cosines twice, a tile's features of unit length."""
    tile = min(rows, TILE)
    return 4 * tile * (2 * min(rows, BLOCK) + width)


def _nearest_of(points: torch.Tensor, own: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Those of a block of points, [B, count], tile by tile."""
    block = torch.nn.functional.normalize(points, dim=1)
    best, where = block.new_empty((len(block), 0)), own.new_empty((len(block), 0))
    for first in range(0, len(rows), TILE):
        tile = torch.nn.functional.normalize(rows[first : first + TILE], dim=1)
        likeness = block @ tile.T
        here = (own >= first) & (own < first + len(tile))
        likeness[here, own[here] - first] = -2.0  # below any cosine
        found = likeness.topk(min(count, len(tile)), dim=1)
        best, where = torch.cat([best, found.values], 1), torch.cat([where, found.indices + first], 1)
        kept = best.topk(min(count, best.shape[1]), dim=1)
        best, where = kept.values, where.gather(1, kept.indices)
    return where


def _said(own: Array, neighbours: Array) -> Array:
    """The mean of `own` [N, C] over the neighbours [N, k] of each row, a block at a time."""
    blocks = range(0, len(neighbours), BLOCK)
    return np.concatenate([own[neighbours[start : start + BLOCK]].mean(1) for start in blocks])


def judged(rows: Rows, clean: Clean | None, neighbours: int, weight: float) -> Posterior:
    """The posterior of every train row.

    Args:
        rows: train rows.
        clean: None: there are none that the folds did not see, and M is P n.
        neighbours: k; 0: they are not asked.
        weight: of the symmetric channel, in rows.
    """
    prior, given = rows.prior, rows.given
    own = posterior_of(prior, given, channel(prior, given, weight))
    count = min(neighbours, len(given) - 1)
    asked = rows.features if count > 0 else None
    trust = BY_HEART if clean is None else _learnt(rows, clean, own, count)
    if trust.folds < 1:
        prior = normalised(prior**trust.folds)
    if clean is not None and rows.trained is not None:
        prior = mixed(prior, _calibrated(clean, rows.trained), trust.trained)
    if asked is not None:
        prior = with_neighbours(prior, _said(own, nearest(asked, count)), trust.neighbours)
    estimate = channel(prior, given, weight)
    true = posterior_of(prior, given, estimate)
    surprise = -np.log(true[np.arange(len(given)), given])
    return Posterior(surprise, true, estimate, trust)


def _calibrated(clean: Clean, log_probabilities: Array) -> Array:
    """T with the factor on its logits that makes its loss on the clean rows least."""
    return softmax(log_probabilities * temperature(clean.trained, clean.labels))


def _learnt(rows: Rows, clean: Clean, own: Array, count: int) -> Trust:
    """The trust that clean rows call for."""
    assert rows.trained is not None
    said = None
    if count > 0 and rows.features is not None and clean.features is not None:
        there = rows.features[:, : clean.features.shape[1]]
        said = _said(own, nearest_to(clean.features, there, count))
    agreeing = float((rows.trained.argmax(1) == rows.given).mean())
    folds = honesty_of_folds(rows.prior, rows.given, clean)
    return learnt(clean.prior, _calibrated(clean, clean.trained), said, clean.labels, agreeing, folds)


def honesty_of_folds(prior: Array, given: Array, clean: Clean) -> float:
    """How far P errs on train rows as it does on clean ones, 0 to 1; see `pipeline.core.trust`."""
    agreeing = float((prior.argmax(1) == given).mean())
    return honesty(agreeing, int((clean.prior.argmax(1) != clean.labels).sum()), len(clean.labels))
