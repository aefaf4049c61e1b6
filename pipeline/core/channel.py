"""Who confuses which labels: the channel A[y, g] = P(given g | true y), the same for all rows of a class.

Known are what a model says of N train rows, whose labels are given, and of M clean rows, whose labels are true and
which it was not fitted to. A cell c of a row is drawn from what the model says of it, so that

    K[c, y] = P(true y | cell c)     is seen on the clean rows,
    n[c, g], rows of cell c given g  is seen on the train rows, and expected to be in the proportions (K A)[c, g].

Clean rows are taken for rows as the train rows are, the classes in the same shares; where they are plainly not
(`alike`), A is symmetric. Whatever the model gets wrong on clean rows, it gets wrong on train rows alike, and K holds
it. A is fitted to n by EM. Three things keep it from saying more than is known: K counts C rows a cell of what the
model itself expects; n counts as M N / (M + N) rows, as K is no surer than its clean rows; and each row of A counts k
rows of the even channel of the same accuracy, in which as many rows of one class are called by the name of any other as
of that one by its name: A[y, g] is in inverse proportion to the share of class y, and a rare class is the noisier. For
k = 3 to 3000, t(k) is the loss of n, in nats, under K of one part of the clean rows and A of the others, a mean over
five parts; A is the geometric mean of the fits, weighted by exp(-t / 4): people and models err on the same rows, so
that rows of n say less than as many independent ones. So where people err as they please the channel stays near the
even one, and where one class is taken for another it says so.

No true train label enters. Letters: C classes. Sources: channels and EM as in Dawid and Skene 1979; channels by clean
rows, Hendrycks et al., NeurIPS 2018 (gold loss correction), who take the mean of what the model says for K A.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.core.trust import TINY, normalised

Array = np.ndarray[Any, Any]

WEIGHTS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""k, in rows of each true class."""
ROUNDS = 100
"""Of EM at most."""
ROWS_ALIKE = 4.0
"""So many rows of n say as much as one that is independent of the others."""
GIVEN_ROWS = 30.0
"""Given labels that the shares of the classes count beside the clean ones, rows."""
PARTS = 5
"""Of the clean rows."""
FIRST_ACCURACY = 0.6
"""Where EM begins, which is left behind after a few rounds; and what is assumed where nothing tells."""
APART = 0.2
"""What wrong labels move at most: 40 % of one of two classes."""
STILL = 1e-6
"""EM ends where no entry of A moves by more."""
FLOOR = 1e-9
"""Rows added to each count, so that no confusion is impossible."""


def posterior_of(model: Array, given: Array, channel: Array) -> Array:
    """P(y | x, g), proportional to M(y | x) A[y, g], [N, C].

    Args:
        model: M(y | x), [N, C].
        given: [N].
        channel: A, [C, C]; a factor on a column changes nothing.
    """
    return normalised(model * channel[:, given].T + TINY)


def symmetric(accuracy: float, classes: int) -> Array:
    """The channel that tells the truth with this chance, and else any other label alike, [C, C]."""
    found = np.full((classes, classes), (1 - accuracy) / max(1, classes - 1))
    np.fill_diagonal(found, accuracy)
    return found


def even(accuracy: float, shares: Array) -> Array:
    """The channel of this accuracy over all rows with as many wrong labels for every pair of classes, [C, C].

    No class is told worse than by chance. Where shares are equal it is the symmetric channel.

    Args:
        accuracy: share of rows whose label is right.
        shares: of the true classes, [C]; a class of share zero takes no part.
    """
    there = shares > 0
    count = int(there.sum())
    found = np.eye(len(shares))
    if count > 1:
        wrong = np.minimum((1 - accuracy) / (count * shares[there]), 1 - 1 / count)  # of each class
        found[np.ix_(there, there)] = (wrong / (count - 1))[:, None]
        found[there, there] = 1 - wrong
    return found


def fitted(model: Array, given: Array, clean: Array, labels: Array) -> Array:
    """A, [C, C], rows sum to 1.

    Args:
        model: what the model says of train rows, [N, C], rows sum to 1.
        given: [N].
        clean: what it says of clean rows, [M, C].
        labels: of these, true, [M]; without any, and where the classes have other shares (`alike`), A is symmetric.
    """
    if not len(labels) or not alike(given, labels, model.shape[1]):
        return symmetric(float(model[np.arange(len(given)), given].mean()), model.shape[1])
    expected = normalised(model.T @ model + TINY)
    counts = _by_label(model, given) * len(labels) / (len(labels) + len(given))
    shares = _shares(given, labels, model.shape[1])
    losses = np.mean([_losses(counts, expected, shares, *halves) for halves in _parts(clean, labels)], axis=0)
    weights = normalised(np.exp((losses.min() - losses) / ROWS_ALIKE))
    cells = _cells(clean, labels, expected)
    fits = np.log([_fit(cells, counts, shares, weight) for weight in WEIGHTS])
    return normalised(np.exp(np.tensordot(weights, fits, 1)))


def assumed(given: Array, labels: Array, classes: int) -> Array:
    """A where no model can tell it, as all that is said repeats the given labels: even, and right in 60 % of the rows.

    Args:
        given: [N].
        labels: of clean rows, [M]; where the classes have other shares, A is symmetric.
        classes: C.
    """
    if not alike(given, labels, classes):
        return symmetric(FIRST_ACCURACY, classes)
    return even(FIRST_ACCURACY, _shares(given, labels, classes))


def alike(given: Array, labels: Array, classes: int) -> bool:
    """Whether the classes may have the same shares among clean rows as among train rows, which K takes for granted.

    The total variation between the shares of clean and of given labels, less what so few clean rows differ by on
    average, Σ (p (1 - p) / 2 π M)^½, is at most `APART`.
    """
    clean, train = (np.bincount(each, minlength=classes) / len(each) for each in (labels, given))
    chance = np.sqrt(train * (1 - train) / (2 * np.pi * len(labels))).sum()
    return bool(np.abs(clean - train).sum() / 2 - chance <= APART)


def _parts(clean: Array, labels: Array) -> list[tuple[Array, Array, Array, Array]]:
    """What is said of clean rows and their labels: all but a part, and that part, for each part that has rows."""
    part = np.arange(len(labels)) % PARTS
    held = [part == number for number in range(min(PARTS, len(labels)))]
    return [(clean[~rows], labels[~rows], clean[rows], labels[rows]) for rows in held]


def _shares(given: Array, labels: Array, classes: int) -> Array:
    """Of the true classes, [C]: of clean rows, and of some given labels while these are few."""
    clean, train = (np.bincount(each, minlength=classes) for each in (labels, given))
    return normalised(clean + GIVEN_ROWS * train / len(given))


def _losses(
    counts: Array, expected: Array, shares: Array, clean: Array, labels: Array, other: Array, truth: Array
) -> Array:
    """-Σ n ln(K A) with A fitted on some clean rows and K of others, for each k, [len(WEIGHTS)]."""
    fits = [_fit(_cells(clean, labels, expected), counts, shares, weight) for weight in WEIGHTS]
    cells = _cells(other, truth, expected)
    return np.array([-(counts * np.log(cells @ fit + TINY)).sum() for fit in fits])


def _cells(clean: Array, labels: Array, expected: Array) -> Array:
    """K, [C, C]: cell by true label, with C rows a cell of what is expected."""
    return normalised(_by_label(clean, labels) + len(expected) * expected)


def _fit(cells: Array, counts: Array, shares: Array, weight: float) -> Array:
    """A by EM: the greatest Σ n ln(K A) with `weight` rows of the even channel a class."""
    found = normalised(even(FIRST_ACCURACY, shares) + FLOOR)
    for _ in range(ROUNDS):
        joint = found * (cells.T @ (counts / (cells @ found + TINY)))  # rows by true and given label
        prior = even(np.trace(joint) / joint.sum(), shares)
        before, found = found, normalised(joint + weight * prior + FLOOR)
        if np.abs(found - before).max() < STILL:
            break
    return found


def _by_label(weights: Array, labels: Array) -> Array:
    """The sum of the rows' weights [n, C] by label, [C, C]: cell by label."""
    sums = np.zeros((weights.shape[1], weights.shape[1]))
    np.add.at(sums.T, labels, weights)
    return sums
