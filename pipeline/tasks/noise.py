"""Planted label noise: flips that we make ourselves, for demonstrations and evaluation. It is always called planted.

Real annotators err otherwise (they err on hard rows), so that a method is never judged by planted noise alone.
Letters: N rows, D features, C classes.
"""

from __future__ import annotations

import warnings
import zlib
from typing import Any

import numpy as np

from pipeline.errors import DataError, TaskError

Labels = np.ndarray[Any, Any]

KINDS = ("none", "uniform", "confusable", "instance")
FOLDS = 5


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each (seed, purpose), so that one use never shifts another."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def plant(
    labels: Labels,
    kind: str,
    rate: float,
    classes: int,
    seed: int,
    confusable: Labels | None = None,
    chances: np.ndarray[Any, Any] | None = None,
) -> Labels:
    """A copy of `labels` with exactly round(rate * N) of them wrong.

    Args:
        labels: [N] integers, 0 to C - 1.
        kind: "none"; "uniform": to any other class alike; "confusable": to the class that it is most often taken for;
            "instance": hard rows more often than easy ones, each to a class that it itself looks like.
        rate: share of the rows to flip, 0 to 1.
        classes: C, at least 2.
        seed: decides which rows are flipped, and where to.
        confusable: [C], the class that each class is flipped to; for "confusable" only.
        chances: [N, C] probabilities of the classes by a model that did not see the row, for "instance" only: a row is
            picked in proportion to 1 - p(its class), and gets another class in proportion to p.

    Returns:
        [N] int64.

    Raises:
        TaskError: kind or rate out of range, or no map for "confusable".
        DataError: labels outside 0 to C - 1, or a map from a class to itself.
    """
    true = np.array(labels, dtype=np.int64)
    _check(true, kind, rate, classes, confusable)
    if kind == "none":
        return true
    draw = stream(seed, "planted noise")
    rows = draw.permutation(len(true))[: round(rate * len(true))]
    if kind == "uniform":
        true[rows] = (true[rows] + draw.integers(1, classes, len(rows))) % classes
    elif kind == "confusable":
        true[rows] = np.asarray(confusable, dtype=np.int64)[true[rows]]
    else:
        return _instance_flips(true, len(rows), chances, stream(seed, "planted instance noise"))
    return true


def _instance_flips(
    true: Labels, count: int, chances: np.ndarray[Any, Any] | None, draw: np.random.Generator
) -> Labels:
    """`count` labels flipped, rows and classes by their chances; draws without replacement by Gumbel's largest."""
    if chances is None or chances.shape[0] != len(true):
        raise TaskError("expected chances of each row for noise 'instance', got none; see held_out_probabilities")
    own = np.arange(len(true))
    logs = np.log(np.clip(chances, 1e-9, None))
    doubt = np.log(np.clip(1 - chances[own, true], 1e-9, None))
    rows = np.sort(np.argsort(-(doubt + draw.gumbel(size=len(true))), kind="stable")[:count])
    logs[own, true] = -np.inf
    flipped = true.copy()
    flipped[rows] = (logs + draw.gumbel(size=logs.shape))[rows].argmax(1)
    return flipped


def _check(labels: Labels, kind: str, rate: float, classes: int, confusable: Labels | None) -> None:
    if kind not in KINDS:
        raise TaskError(f"expected noise to be one of {', '.join(KINDS)}, got {kind!r}; choose one of these")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate <= 1:
        raise TaskError(f"expected noise_rate from 0 to 1, got {rate!r}; give the share of labels to flip")
    if classes < 2:
        raise DataError(f"expected at least 2 classes for planted noise, got {classes}; there is nothing to flip to")
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise DataError(f"expected labels from 0 to {classes - 1}, got {labels.min()} to {labels.max()}; renumber them")
    if kind == "confusable":
        _check_map(confusable, classes)


def _check_map(confusable: Labels | None, classes: int) -> None:
    if confusable is None:
        raise TaskError("expected a map of confusable classes for noise 'confusable', got none; see most_confusable")
    to = np.asarray(confusable)
    if to.shape != (classes,) or (to == np.arange(classes)).any() or to.min() < 0 or to.max() >= classes:
        raise DataError(
            f"expected confusable to name another class, 0 to {classes - 1}, for each of {classes} classes, "
            f"got {to.tolist()}; no class may map to itself"
        )


def most_confusable(features: np.ndarray[Any, Any], labels: Labels, classes: int, seed: int) -> Labels:
    """The class that each class is most often taken for by a cross-validated logistic regression.

    Counts of wrong predictions on held-out folds decide; ties (classes that are never confused) go to the larger mean
    predicted probability.

    Args:
        features: [N, D], any scale.
        labels: [N] clean integers, 0 to C - 1, each class at least twice.
        classes: C.
        seed: of the folds.

    Returns:
        [C] int64, never the class itself.

    Raises:
        DataError: a class has fewer than 2 rows.
    """
    labels = np.asarray(labels, dtype=np.int64)
    fewest = int(np.bincount(labels, minlength=classes).min())
    if fewest < 2:
        raise DataError(
            f"expected at least 2 rows of each class to find confusable classes, got {fewest}; use more rows"
        )
    probabilities = held_out_probabilities(features, labels, min(FOLDS, fewest), seed)
    taken_for = np.zeros((classes, classes))
    np.add.at(taken_for, (labels, probabilities.argmax(1)), 1.0)
    for label in range(classes):
        taken_for[label] += probabilities[labels == label].mean(0) * (1 - 1e-9)  # below 1: it breaks ties only
    np.fill_diagonal(taken_for, -1)
    return taken_for.argmax(1).astype(np.int64)


def held_out_probabilities(
    features: np.ndarray[Any, Any], labels: Labels, folds: int, seed: int
) -> np.ndarray[Any, Any]:
    """[N, C] class probabilities from folds that did not see the row."""
    fewest = int(np.bincount(labels).min())
    if fewest < 2:
        raise DataError(f"expected at least 2 rows of each class to tell hard rows by, got {fewest}; use more rows")
    folds = min(folds, fewest)
    from sklearn.exceptions import ConvergenceWarning  # heavy, and needed for this alone
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    # one thread: on such small matrices many threads only wait for one another
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the order of classes needs no converged optimum
        return np.asarray(
            cross_val_predict(model, np.asarray(features, float), labels, cv=split, method="predict_proba")
        )
