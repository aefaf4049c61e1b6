"""Checks of the options that built-in tasks share. Each message names the option, what it takes and what came."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pipeline.errors import DataError, TaskError


def one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    """`value` if it is among `allowed`.

    Raises:
        TaskError: it is not; the nearest is named.
    """
    if value in allowed:
        return str(value)
    near = difflib.get_close_matches(str(value), allowed, 1)
    advice = f"did you mean '{near[0]}'?" if near else "choose one of these"
    raise TaskError(f"expected {name} to be one of {', '.join(allowed)}, got {value!r}; {advice}")


def whole(name: str, value: Any, least: int = 1) -> int:
    """`value` if it is a whole number of at least `least`.

    Raises:
        TaskError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise TaskError(
            f"expected {name} to be a whole number from {least} up, got {value!r}; mend it under task.options"
        )
    return value


def share(name: str, value: Any) -> float:
    """`value` if it is a number from 0 to 1.

    Raises:
        TaskError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise TaskError(f"expected {name} to be a number from 0 to 1, got {value!r}; mend it under task.options")
    return float(value)


def positive(name: str, value: Any) -> float:
    """`value` if it is a number above 0.

    Raises:
        TaskError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise TaskError(f"expected {name} to be a number above 0, got {value!r}; mend it under task.options")
    return float(value)


def yes_or_no(name: str, value: Any) -> bool:
    """`value` if it is true or false.

    Raises:
        TaskError: it is neither.
    """
    if not isinstance(value, bool):
        raise TaskError(f"expected {name} to be true or false, got {value!r}; mend it under task.options")
    return value


def class_index(label: str | None, names: Sequence[str]) -> int | None:
    """The number of a class as a person types it: its name or its number.

    Raises:
        DataError: neither.
    """
    if label is None:
        return None
    folded = {name.casefold(): index for index, name in enumerate(names)}
    if label.strip().casefold() in folded:
        return folded[label.strip().casefold()]
    if label.strip().isdecimal() and int(label) < len(names):
        return int(label)
    near = difflib.get_close_matches(label.casefold(), list(folded), 1)
    advice = f"did you mean '{names[folded[near[0]]]}'?" if near else f"known are: {', '.join(names)}"
    raise DataError(f"expected the name or number (0 to {len(names) - 1}) of a class, got '{label}'; {advice}")
