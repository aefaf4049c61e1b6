"""A matplotlib figure as inline SVG that follows the page: its fonts, its colours in light and dark, its ids.

A figure is drawn in marker colours (`INK`, `SERIES`, ...), each of which becomes a CSS variable of the page. The same
figure gives the same bytes: ids are salted with the figure's name and no date is written.
"""

from __future__ import annotations

import io
import re
from typing import Any
from xml.etree import ElementTree

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID = "#010201", "#010202", "#010203"
SERIES = tuple(f"#01030{i}" for i in range(1, 7))
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line"} | {c: f"--c{i}" for i, c in enumerate(SERIES, 1)}
_NAMESPACE = re.compile(r"\{[^}]*\}")
_FONT = re.compile(r"font-family: [^;]*|font: ([\d.]+px) [^;]*")

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


def inline(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an `<svg>` element.

    Args:
        figure: drawn under `STYLE`.
        name: unique on the page; letters and dashes.
        description: what is to be seen, for those who cannot see it.

    Returns:
        Markup without namespaces, metadata, style sheets or foreign references.
    """
    buffer = io.BytesIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _tidy(root, name)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": description}
    text = ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)
    return Markup(_themed(text))


def _tidy(element: ElementTree.Element, name: str) -> None:
    """Drop namespaces, metadata and style sheets (which would leak into the page); make ids unique, in place."""
    element.tag = _NAMESPACE.sub("", element.tag)
    element.attrib = {_NAMESPACE.sub("", k): _own(k, v, name) for k, v in element.attrib.items()}
    for child in list(element):
        if _NAMESPACE.sub("", str(child.tag)) in ("metadata", "style"):
            element.remove(child)
        else:
            _tidy(child, name)


def _own(key: str, value: str, name: str) -> str:
    """An attribute's value with the ids in it prefixed by the figure's name."""
    if key == "id":
        return f"{name}-{value}"
    if key.endswith("href"):
        return value.replace("#", f"#{name}-", 1)
    return value.replace("url(#", f"url(#{name}-")


def _themed(text: str) -> str:
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return _FONT.sub(lambda m: f"font: {m[1]} var(--sans)" if m[1] else "font-family: var(--sans)", text)
