"""Numbers as people read them: rounded to the printed digits, never beyond, with a true minus sign.

On the page each is wrapped in `<data value="...">`, whose value is the number as it came in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

MINUS = "\u2212"
ABSENT = "\u2013"
_SUPERSCRIPT = str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((86400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"))


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits or to the unit: 0.0123, 12.3, 1,234, 1.23 × 10⁻⁵; a dash for None."""
    if value is None:
        return ABSENT
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "\u221e" if value > 0 else MINUS + "\u221e"
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    if -4 < int(exponent) < 5:
        text = f"{value:,.{max(digits - 1 - int(exponent), 0)}f}"
    else:
        text = f"{mantissa} \u00d7 10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    return text.replace("-", MINUS)


def setting(value: float | None) -> str:
    """A value that someone chose, without padding: 0.2, 1, 1e-06; a dash for None."""
    return ABSENT if value is None else f"{value:.6g}".replace("-", MINUS)


def count(value: int | None) -> str:
    """A whole number in full, with commas; a dash for None."""
    return ABSENT if value is None else f"{int(value):,}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share of 0 to 1 in per cent, one decimal; a dash for None."""
    if share is None or not math.isfinite(share):
        return number(share)
    return f"{100 * share:.1f} %".replace("-", MINUS)


def size(value_bytes: float | None) -> str:
    """Bytes in powers of 1000, three digits: 1.23 MB."""
    return _in_units(value_bytes, _BYTES)


def duration(value_s: float | None) -> str:
    """Seconds in the largest unit that is not above them, three digits: 2.05 min."""
    return _in_units(value_s, _SECONDS)


def wrap(text: str, value: float | None) -> Markup:
    """`text` with the number behind it in full precision, for whoever reads the page by program."""
    if value is None:
        return Markup('<span class="absent" title="not measured">{}</span>').format(text)
    return Markup('<data value="{}">{}</data>').format(repr(_plain(value)), text)


def cell(value: Any) -> Markup | str:
    """A value of unknown kind: a whole number in full, another number rounded, anything else as text."""
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return wrap(count(value) if isinstance(value, int) else number(value, 4), value)


def _plain(value: Any) -> Any:
    """A numpy or torch scalar as Python's own, so that its repr is the bare number."""
    item = getattr(value, "item", None)
    return item() if callable(item) and getattr(value, "ndim", None) == 0 else value


def _in_units(value: float | None, units: Sequence[tuple[float, str]]) -> str:
    if value is None or not math.isfinite(value):
        return number(value)
    scale, unit = next((u for u in units if abs(value) >= u[0]), units[-1])
    return f"{number(value / scale)} {unit}"
