"""Inputs as points: what is seen of rows as they are, without a model.

An input of real numbers (or of bytes, as pixels are) is the point that its numbers make. A text is a sequence of words,
one of integers names tokens, whose numbers say nothing of distance: such a sequence is the point of its bag, tf-idf at
unit length,

    ln(1 + n(w)) ln(N / N(w))     for each token w, n(w) of them in the input, in N(w) of the N rows that are looked at,

hashed with signs into `BAG` numbers (Weinberger et al., ICML 2009), which leaves inner products as they are on average.
A token of every row, as those that pad and frame sequences are, counts for nothing, so no mask has to be known.
Sources: Salton and Buckley 1988. Letters: n rows, D numbers of a point.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.tasks.base import label_key
from pipeline.tasks.rows import RowSet

Array = np.ndarray[Any, Any]

BAG = 4096
"""Numbers of the point of a sequence."""
NUMBERS = (torch.bool, torch.uint8)
"""Kinds of integers that are numbers; others name something."""
WORDS = r"\w+|[^\w\s]"
"""What counts as a word: letters and digits that stand together, or a sign."""

Input = Tensor | str | None
"""None: what is no point."""


class Space(ABC):
    """What makes points of inputs.

    Attributes:
        width: D.
    """

    width: int

    def points(self, inputs: Sequence[Input]) -> Array:
        """[n, D] float32; NaN for an input that is none of this space."""
        found = np.full((len(inputs), self.width), np.nan, np.float32)
        own = [place for place, value in enumerate(inputs) if self.takes(value)]
        if own:
            found[own] = self._made([inputs[place] for place in own])
        return found

    @abstractmethod
    def takes(self, value: Input) -> bool:
        """Whether an input is of this space; its numbers need not be finite."""

    @abstractmethod
    def _made(self, inputs: list[Any]) -> Array:
        """[n, D] of inputs that are."""


class Plain(Space):
    """Inputs of D numbers, as they are."""

    def __init__(self, width: int) -> None:
        """D."""
        self.width = width

    def takes(self, value: Input) -> bool:
        """See the base."""
        return isinstance(value, Tensor) and not _names(value) and value.numel() == self.width

    def _made(self, inputs: list[Any]) -> Array:
        return np.stack([value.detach().float().flatten().cpu().numpy() for value in inputs])


class Bags(Space):
    """Texts and sequences of tokens, however long."""

    width = BAG

    def __init__(self, rows: RowSet, positions: Array) -> None:
        """Count in how many of these rows each token is."""
        counts: Counter[str] = Counter()
        for position in positions:
            value = input_of(rows, int(position))
            counts.update(_tokens(value).keys() if self.takes(value) else ())
        self._weights = {token: np.log(len(positions) / count) for token, count in counts.items()}

    def takes(self, value: Input) -> bool:
        """See the base."""
        return _names(value)

    def _made(self, inputs: list[Any]) -> Array:
        from sklearn.feature_extraction import FeatureHasher  # heavy, and needed for this alone
        from sklearn.preprocessing import normalize

        hashed = FeatureHasher(BAG, input_type="pair", dtype=np.float32).transform(map(self._bag, inputs))
        found: Array = normalize(hashed, copy=False).toarray()
        return found

    def _bag(self, value: Any) -> list[tuple[str, float]]:
        """Tokens with their weights; those that were in none of the rows are left out."""
        return [(w, np.log1p(n) * self._weights[w]) for w, n in _tokens(value).items() if w in self._weights]


class Points:
    """The inputs of some rows as points [n, D] float32, read as they are asked for."""

    def __init__(self, space: Space, rows: RowSet, positions: Array) -> None:
        self.space, self._rows, self._positions = space, rows, positions

    def __len__(self) -> int:
        """How many there are."""
        return len(self._positions)

    def __getitem__(self, which: Any) -> Array:
        """Those at a slice or at positions among them; NaN for a row whose input is none of the space."""
        return self.space.points([input_of(self._rows, int(position)) for position in self._positions[which]])


def space_of(rows: RowSet, positions: Array) -> Space | None:
    """The space of the inputs of some rows, by the first of them; None: of no rows, and for inputs that are no points.

    Args:
        rows: those by which tokens are weighed.
        positions: some of them, [n].
    """
    first = input_of(rows, int(positions[0])) if len(positions) else None
    if _names(first):
        return Bags(rows, positions)
    return Plain(first.numel()) if isinstance(first, Tensor) and not first.is_complex() else None


def vectors(space: Space | None, rows: RowSet, positions: Array) -> Array | None:
    """The inputs of some rows at once, [n, D] float32; None where one of them is no point, or not finite."""
    found = None if space is None or not len(positions) else Points(space, rows, positions)[:]
    return found if found is not None and np.isfinite(found).all() else None


def input_of(rows: RowSet, position: int) -> Input:
    """What comes first in a row but for its label, where that is a tensor or a text."""
    row = rows.row(position)
    if isinstance(row, dict):
        label = label_key(row)
        row = [value for name, value in row.items() if name != label]
    value = row[0] if isinstance(row, (tuple, list)) and len(row) else None
    return value if isinstance(value, (Tensor, str)) else None


def _names(value: Input) -> bool:
    """Whether an input is a text or a sequence of tokens."""
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex() or value.dtype in NUMBERS)
    return value is not None


def _tokens(value: Any) -> Counter[str]:
    """How many there are of each token of an input that names some."""
    if isinstance(value, Tensor):
        return Counter(map(str, value.flatten().tolist()))
    return Counter(re.findall(WORDS, value.lower()))
