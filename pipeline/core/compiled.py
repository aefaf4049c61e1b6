"""Loops over numbers as machine code. The only module that knows numba.

They are compiled when they are first called and kept beside their source, or in the user's cache: a second for the
first process that encodes, half of one for the others, and nothing for those that only read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

Loop = Callable[..., None]


def compiled(loop: Loop) -> Loop:
    """A function of arrays and numbers, whose results go into its last arguments, as machine code.

    Sums keep the order in which they are written, and products are not fused with them: results are those of the
    function as it stands.
    """

    @wraps(loop)
    def call(*arguments: Any) -> None:
        machine_code(loop)(*arguments)

    return call


@cache
def machine_code(loop: Loop) -> Loop:
    """What numba makes of it; kept for later processes where there is a place to keep it."""
    try:
        return _made(loop, kept=True)
    except RuntimeError:  # neither the package's directory nor the user's cache can be written to
        return _made(loop, kept=False)


def _made(loop: Loop, kept: bool) -> Loop:
    import numba

    made: Loop = numba.njit(loop, cache=kept, nogil=True, error_model="numpy")
    return made
