"""Whom to believe when labels are judged, and how much: learnt from clean rows.

A source says how likely each label is for a row. On clean rows that no source was fitted to it shows what it is worth.
On train rows it may be worth less: a model that knows its labels by heart repeats them. How far it does shows without
any true train label:

    honesty r = min(1, e / v)

e is the share of train rows where the source does not say the given label, v its share of errors on clean rows: the
least that (errors + 1) of (M + 2) leave likely, the lower end of Wilson's interval, so that few clean rows accuse no
source whose train rows are nearly all right. Given labels are wrong at least as often as clean ones, so that a source
which took nothing in by heart has e >= v and r = 1; one that repeats every label has r = 0.

Sources s that are believed are taken together as Π P_s^w_s, with exponents w_s >= 0 that make the loss on the clean
rows least:

    Σ -ln Π P_s(y | x)^w_s  +  PULL Σ (w_s - 1/S)²,   in nats over the M clean rows, S sources

so that sources which say the same share the weight, and few clean rows leave the geometric mean.

Letters: M clean rows, N train rows, C classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

TINY = 1e-200
"""Below what float64 probabilities come to; a floor that keeps logarithms finite."""
FLOOR = 1e-12
"""Least probability of a source among several: none of them can say alone that a label is impossible."""
HONEST = 0.5
"""Honesty below which a source repeats the labels of the train rows."""
PULL = 2.0
"""In nats, towards equal exponents."""
QUANTILE = 1.64
"""Standard errors below the share of errors on clean rows: one in twenty is less."""
STEPS = 100
"""Of Newton's method at most; it takes about ten."""


def honesty(train: Array, given: Array, clean: Array, labels: Array) -> float:
    """r of a source, 0 to 1.

    Args:
        train: what it says of train rows, [N, C].
        given: [N].
        clean: what it says of clean rows, [M, C].
        labels: of these, [M].

    >>> honesty(np.eye(2), np.array([0, 1]), np.eye(2), np.array([0, 0]))
    0.0
    """
    disagreeing = float((train.argmax(1) != given).mean())
    errors = int((clean.argmax(1) != labels).sum())
    return min(1.0, disagreeing / _least(errors + 1, len(labels) + 2))


def _least(errors: int, rows: int) -> float:
    """The lower end of Wilson's interval for a share."""
    share, z = errors / rows, QUANTILE
    spread = z * np.sqrt(share * (1 - share) / rows + (z / rows) ** 2 / 4)
    return float((share + z**2 / (2 * rows) - spread) / (1 + z**2 / rows))


def exponents(sources: list[Array], labels: Array) -> Array:
    """w, [S], by projected Newton steps; the loss is convex in w.

    Args:
        sources: what each says of the clean rows, [M, C], rows sum to 1.
        labels: [M].
    """
    logs = np.log(np.stack(sources, -1) + FLOOR)  # [M, C, S]
    equal = np.full(len(sources), 1 / len(sources))
    w = equal
    for _ in range(STEPS):
        loss, slope, bend = _loss(logs, labels, w, equal)
        free = (w > 0) | (slope < 0)
        move = np.zeros_like(w)
        move[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        size = 1.0
        while size > FLOOR and _loss(logs, labels, np.maximum(w - size * move, 0), equal)[0] > loss:
            size /= 2
        before, w = w, np.maximum(w - size * move, 0)
        if np.abs(w - before).max() < 1e-9:
            break
    return w


def _loss(logs: Array, labels: Array, w: Array, equal: Array) -> tuple[float, Array, Array]:
    """The loss in nats, its gradient [S] and its Hessian [S, S]."""
    said = np.log(combined_logs(logs, w))
    p = np.exp(said)
    rows = np.arange(len(labels))
    means = np.einsum("mc,mcs->ms", p, logs)
    away = w - equal
    slope = (means - logs[rows, labels]).sum(0) + 2 * PULL * away
    second = np.einsum("mc,mcs,mct->st", p, logs, logs) - means.T @ means
    loss = -float(said[rows, labels].sum()) + PULL * float(away @ away)
    return loss, slope, second + 2 * PULL * np.eye(len(w))


def combined(sources: list[Array], w: Array) -> Array:
    """Π P_s^w_s, normalised, [n, C]."""
    return combined_logs(np.log(np.stack(sources, -1) + FLOOR), w)


def combined_logs(logs: Array, w: Array) -> Array:
    """The same of logarithms [n, C, S]; no entry is 0."""
    total = logs @ w
    return normalised(np.exp(total - total.max(1, keepdims=True)) + TINY)


def normalised(values: Array) -> Array:
    """Rows that sum to 1."""
    return np.asarray(values / values.sum(-1, keepdims=True))
