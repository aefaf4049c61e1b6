"""Nearest neighbours by inner product, in parts of some hundred thousand rows that are searched side by side.

Rows are added to the last part, and taken out of those that hold them; all other parts stay the files that they are.
Kinds that do not look at every row (cells, graphs) are one part, for in several they would look at more. An index on
disk is a directory: `empty`, a part without rows whose quantisers are trained, and the parts, `0` and so on.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.storage import faiss_part

PART_ROWS = 2**18
"""Rows of a part: of a million, four. Each finds its best from nothing, so that many small parts take longer."""
SPREAD = 3
"""A part is first asked for as many of the k best as it has by chance, and so many deviations more."""
EMPTY = "empty"

Array = np.ndarray[Any, Any]
Floats = np.ndarray[Any, np.dtype[np.float32]]
Found = tuple[Array, Array]
Blocks = Iterable[tuple[Array, Floats]]


@dataclass
class Part:
    """A part of an index, and the file that it is on disk, if it has not changed since."""

    index: Any
    file: Path | None = None

    def to_change(self) -> Any:
        """The part, to be changed."""
        if self.file is not None:
            self.index, self.file = faiss_part.read(self.file, to_change=True), None
        return self.index


@dataclass
class Index:
    """Rows by id.

    Attributes:
        empty: a part without rows.
        parts: each with rows.
        threads: of a search.
    """

    empty: Part
    threads: int
    parts: list[Part] = field(default_factory=list)

    def add(self, blocks: Blocks) -> None:
        """Add blocks of ids [n] and vectors [n, K]."""
        most = PART_ROWS if faiss_part.is_scanned(self.empty.index) else np.iinfo(np.int64).max
        for own, rows in blocks:
            start = 0
            while start < len(own):
                if not self.parts or self.parts[-1].index.ntotal >= most:
                    self.parts.append(Part(faiss_part.copied(self.empty.index)))
                last = self.parts[-1].to_change()
                stop = min(len(own), start + most - last.ntotal)
                faiss_part.add(last, own[start:stop], rows[start:stop])
                start = stop

    def remove(self, gone: Array) -> bool:
        """Take ids out; False, and no change, where the kind cannot."""
        for part in self.parts if len(gone) else ():
            held = gone[np.isin(gone, faiss_part.ids(part.index))]
            if len(held) and not faiss_part.remove(part.to_change(), held):
                return False
        self.parts = [part for part in self.parts if part.index.ntotal]
        return True

    def search(self, vectors: Floats, k: int, sure: int | None = None) -> tuple[Array, Array]:
        """Ids [q, k] and inner products [q, k] of the k nearest; -1 where the search found fewer.

        Args:
            vectors: [q, K].
            k: how many.
            sure: how many of them must be the nearest of all parts, where that is not all; it saves time.
        """
        asked = np.ascontiguousarray(vectors, np.float32)
        parts = self.parts or [self.empty]
        rows = sum(part.index.ntotal for part in parts)
        several = len(parts) > 1
        wanted = [_by_chance(k, part.index.ntotal / rows, sure is None) if several else k for part in parts]
        answers = self._asked(parts, asked, wanted)
        again = [i for i in _incomplete(answers, sure or k) if wanted[i] < k]
        for i, answer in zip(again, self._asked([parts[i] for i in again], asked, [k] * len(again)), strict=True):
            answers[i] = answer
        return _best(answers, k)

    def _asked(self, parts: list[Part], vectors: Floats, wanted: list[int]) -> list[Found]:
        """What each part finds, of so many that are wanted."""

        def ask(part: Part, k: int) -> Found:
            return faiss_part.search(part.index, vectors, k)

        side_by_side = len(parts) > 1 and self.threads > 1
        return list(self._pool.map(ask, parts, wanted) if side_by_side else map(ask, parts, wanted))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, "index", initializer=faiss_part.use_threads, initargs=(1,))

    def tune(self, probes: int, breadth: int) -> None:
        """Set how much of the index a search visits; kinds without such a parameter are left as they are."""
        for part in self.parts:
            faiss_part.tune(part.index, probes, breadth)

    def ids(self) -> Array:
        """Of all rows, [n]."""
        return np.concatenate([np.zeros(0, np.int64), *(faiss_part.ids(part.index) for part in self.parts)])

    def vectors(self, wanted: Array) -> Floats | None:
        """What is kept of the vectors with these ids, [n, K]; None where the kind cannot tell."""
        found: Floats | None = None
        for part in self.parts:
            mine = np.nonzero(np.isin(wanted, faiss_part.ids(part.index)))[0]
            if not len(mine):
                continue
            if (kept := faiss_part.vectors(part.index, wanted[mine])) is None:
                return None
            found = np.full((len(wanted), kept.shape[1]), np.nan, np.float32) if found is None else found
            found[mine] = kept
        return found

    @property
    def error(self) -> float:
        """How far a coordinate of a kept vector may be off, as a share of the largest one; 2 where all may be."""
        return faiss_part.error(self.empty.index)

    @property
    def trained_on_rows(self) -> bool:
        """Whether the kind has quantisers that were fitted to rows."""
        return faiss_part.is_trained_on_rows(self.empty.index)

    def save(self, directory: Path) -> None:
        """Write a new directory; parts that are on disk as they are become links to their files, or copies."""
        directory.mkdir()
        for name, part in [(EMPTY, self.empty), *((str(i), part) for i, part in enumerate(self.parts))]:
            if part.file is None:
                faiss_part.write(part.index, directory / name)
            else:
                _link(part.file, directory / name)


def _by_chance(k: int, share: float, all_of_them: bool) -> int:
    """How many of the k best a part with this share of the rows is asked for first."""
    expected = k * share
    spread = SPREAD * math.sqrt(expected) if all_of_them else 0.0
    return min(k, math.ceil(expected + spread) + SPREAD)


def _incomplete(answers: list[Found], k: int) -> list[int]:
    """Parts whose last find is among the k best of all, so that they may have more of them."""
    products = np.sort(np.concatenate([np.where(ids < 0, -np.inf, found) for ids, found in answers], axis=1), axis=1)
    least = products[:, -k] if products.shape[1] >= k else np.full(len(products), -np.inf)
    return [i for i, (ids, found) in enumerate(answers) if ((ids[:, -1] >= 0) & (found[:, -1] >= least)).any()]


def _best(answers: list[Found], k: int) -> Found:
    """The k best of all parts."""
    if len(answers) == 1:
        return answers[0]
    ids, products = (np.concatenate(each, axis=1) for each in zip(*answers, strict=True))
    best = np.argsort(np.where(ids < 0, np.inf, -products), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, best, 1), np.take_along_axis(products, best, 1)


def _link(file: Path, place: Path) -> None:
    try:
        os.link(file, place)
    except OSError:  # not on this file system
        shutil.copyfile(file, place)


def build(factory: str, dimension: int, blocks: Blocks, sample: Callable[[], Floats], threads: int) -> Index:
    """An index over blocks of (ids [n], vectors [n, K]).

    Args:
        factory: a FAISS factory string.
        dimension: K.
        blocks: ids and vectors.
        sample: gives vectors [n, K] to train quantisers on; only called where the factory needs training.
        threads: of building and searching.

    Raises:
        ConfigError: not a factory string, or one that needs more rows than there are.
    """
    faiss_part.use_threads(threads)
    index = faiss_part.empty(factory, dimension)
    if not index.is_trained:
        faiss_part.train(index, factory, sample())
    built = Index(Part(index), threads)
    built.add(blocks)
    return built


def load(directory: Path, threads: int) -> Index:
    """Read an index; its parts are mapped into memory where their kind allows.

    Raises:
        StoreError: it does not read.
    """
    faiss_part.use_threads(threads)
    files = [directory / EMPTY, *(directory / str(i) for i in range(len(list(directory.glob("*"))) - 1))]
    parts = [Part(faiss_part.read(file), file) for file in files[1:]]
    return Index(Part(faiss_part.read(files[0], to_change=True), files[0]), threads, parts)
