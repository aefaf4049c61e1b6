"""Loops over numbers as machine code. The only module that knows numba.

They are compiled when they are first called, for the types that they are written for, and kept beside their source or
in the user's cache: a second or two for the first process that encodes, half of one for the others, and nothing for
those that only read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

Loop = Callable[..., None]

LOOPS: list[tuple[Loop, tuple[str, ...]]] = []
"""Those of the modules that were imported."""


def compiled(*signatures: str) -> Callable[[Loop], Loop]:
    """A function of arrays and numbers, whose results go into its last arguments, as machine code.

    Sums keep the order in which they are written, and products are not fused with them: results are those of the
    function as it stands.

    Args:
        signatures: the types of its arguments as numba writes them; it takes no others. `float32[:, ::1]` is a matrix
            that is contiguous and may be written to.
    """

    def compile_later(loop: Loop) -> Loop:
        LOOPS.append((loop, signatures))

        @wraps(loop)
        def call(*arguments: Any) -> None:
            machine_code(loop, signatures)(*arguments)

        return call

    return compile_later


def load() -> None:
    """Have all loops at hand: 120 MB that else come with the first row."""
    for loop, signatures in LOOPS:
        machine_code(loop, signatures)


@cache
def machine_code(loop: Loop, signatures: tuple[str, ...]) -> Loop:
    """What numba makes of it; kept for later processes where there is a place to keep it."""
    try:
        return _made(loop, signatures, kept=True)
    except Exception:  # nothing can be written, or what was kept is damaged; a loop that is wrong fails again below
        return _made(loop, signatures, kept=False)


def _made(loop: Loop, signatures: tuple[str, ...], kept: bool) -> Loop:
    import numba

    made: Loop = numba.njit([f"void({each})" for each in signatures], cache=kept, nogil=True, error_model="numpy")(loop)
    return made
