"""Ten kinds of word problems, each a group: the protocol of DataInf (Kwon et al., ICLR 2024) with texts of our own.

A prompt tells a problem with drawn numbers, the completion reasons and ends with the answer. Which train texts taught
it is known: those of the same kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.tasks.language import Text
from pipeline.tasks.small_language import MadeTexts

NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ida", "Jon", "Kim", "Lena")


class Kind(NamedTuple):
    """A kind of problem: its text, its reasoning, and what is drawn or follows."""

    problem: str
    reasoning: str
    numbers: Callable[[np.random.Generator], dict[str, int]]


def _drawn(draw: np.random.Generator, **ranges: tuple[int, int]) -> dict[str, int]:
    return {name: int(draw.integers(low, high + 1)) for name, (low, high) in ranges.items()}


def _left(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(20, 60), b=(2, 19))
    return {**own, "c": own["a"] - own["b"]}


def _sum(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(5, 60), b=(5, 60))
    return {**own, "c": own["a"] + own["b"]}


def _product(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(2, 12), b=(3, 25))
    return {**own, "c": own["a"] * own["b"]}


def _quotient(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, b=(2, 12), c=(3, 25))
    return {**own, "a": own["b"] * own["c"]}


def _perimeter(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(3, 40), b=(3, 40))
    return {**own, "d": own["a"] + own["b"], "c": 2 * (own["a"] + own["b"])}


def _change(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(2, 9), b=(2, 10))
    return {**own, "d": own["a"] * own["b"], "c": 100 - own["a"] * own["b"]}


def _share(draw: np.random.Generator) -> dict[str, int]:
    own = _drawn(draw, a=(1, 19), b=(2, 30))
    return {"a": 5 * own["a"], "b": 20 * own["b"], "c": own["a"] * own["b"]}


KINDS: dict[str, Kind] = {
    "pies left": Kind("{n} bakes {a} pies and sells {b}. How many are left?", "{a} - {b} = {c}", _left),
    "two journeys": Kind("{n} rides {a} km, then {b} km. How far in all?", "{a} + {b} = {c}", _sum),
    "seats in rows": Kind("A hall has {a} rows of {b} seats. How many seats?", "{a} * {b} = {c}", _product),
    "fair parts": Kind("{a} nuts go to {b} children alike. How many for each?", "{a} / {b} = {c}", _quotient),
    "fence": Kind("A field is {a} m by {b} m. How long is its fence?", "{a} + {b} = {d}, 2 * {d} = {c}", _perimeter),
    "area": Kind("A wall is {a} m high and {b} m wide. What is its area?", "{a} * {b} = {c}", _product),
    "speed": Kind("A train takes {b} h for {a} km. How fast is it?", "{a} / {b} = {c}", _quotient),
    "change": Kind("{n} buys {a} books at {b} and pays 100. What comes back?",
                   "{a} * {b} = {d}, 100 - {d} = {c}", _change),
    "age": Kind("{n} is {b}. In how many years will {n} be {a}?", "{a} - {b} = {c}", _left),
    "per cent": Kind("What is {a} per cent of {b} votes?", "{a} * {b} / 100 = {c}", _share),
}  # fmt: skip
"""Name of a kind and how its problems are told."""


class WordProblems(MadeTexts):
    """900 train, 100 validation and 100 query texts of ten kinds of problems by default; options: see the base."""

    POSITIONS = 112

    @classmethod
    def names(cls) -> Sequence[str]:
        """The kinds."""
        return tuple(KINDS)

    @classmethod
    def text(cls, group: str, draw: np.random.Generator) -> Text:
        """A problem with its reasoning and answer."""
        kind = KINDS[group]
        words = {**kind.numbers(draw), "n": str(draw.choice(NAMES))}
        return Text(kind.problem.format(**words) + "\n", kind.reasoning.format(**words), group)
