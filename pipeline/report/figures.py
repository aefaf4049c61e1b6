"""The plots of the report: loss curves, spectra, the distribution of a score, lines and bars of an evaluation.

Legends are left to the page, so that no text of the data enters a figure (where `$` would be read as mathematics); the
names beside bars are drawn as they are.
Values that are not finite are not drawn; the caption says how many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipeline.report import svg
from pipeline.report.background import Bars, Curvature, Curve, Lines
from pipeline.report.printed import number

SIZE = (5.0, 2.9)  # inches; text of 10 points stays readable at the width of a phone
POINTS = 300  # drawn of a spectrum
BINS = 48
BAR = 0.23  # inches a bar
NAME = 48  # characters of a bar's name that are drawn


@dataclass(frozen=True)
class Plot:
    """A figure for the page: inline SVG and (name, CSS variable of the colour, dashed) of what is drawn."""

    markup: Markup
    legend: Sequence[tuple[str, str, bool]] = ()


def curves(name: str, series: Sequence[tuple[str, Curve]], description: str) -> Plot | None:
    """Losses over steps, one line a series; None where nothing can be drawn."""
    drawn = [(label, _finite(curve)) for label, curve in series]
    drawn = [(label, points) for label, points in drawn if len(points)]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for i, (_, points) in enumerate(drawn):
            axes.plot(points[:, 0], points[:, 1], **_line(i), marker="o" if len(points) == 1 else None)
        axes.set_xlabel("step")
        axes.set_ylabel("loss (nats)")

    return Plot(_figure(name, draw, description), _legend([label for label, _ in drawn]))


def spectrum(name: str, curvatures: Sequence[Curvature], description: str) -> Plot | None:
    """Positive eigenvalues in falling order, both axes logarithmic, and each lambda as a dotted level."""
    drawn = [(c, _positive(c.eigenvalues)) for c in curvatures]
    drawn = [(c, values) for c, values in drawn if len(values)]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for i, (curvature, values) in enumerate(drawn):
            kept = np.unique(np.geomspace(1, len(values), POINTS).astype(int))
            axes.plot(kept, values[kept - 1], **_line(i), marker="o" if len(kept) == 1 else None)
            if curvature.absolute > 0:
                axes.axhline(curvature.absolute, color=_line(i)["color"], linewidth=1, linestyle=":")
        _logarithmic(axes.xaxis, axes.set_xscale)
        _logarithmic(axes.yaxis, axes.set_yscale)
        axes.set_xlabel("number of the eigenvalue")
        axes.set_ylabel("eigenvalue")

    return Plot(_figure(name, draw, description), _legend([c.name for c, _ in drawn]))


def distribution(name: str, values: np.ndarray, threshold: float | None, description: str) -> Plot | None:
    """Histogram of a score, counts on a logarithmic axis; a line where the gallery of suspects begins."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    wide = finite.min() > 0 and finite.max() > 100 * finite.min()

    def draw(axes: Axes) -> None:
        edges = np.geomspace(finite.min(), finite.max(), BINS + 1) if wide else np.histogram_bin_edges(finite, BINS)
        axes.hist(finite, np.unique(edges).tolist(), color=svg.SERIES[0], alpha=0.85, histtype="stepfilled")
        if wide:
            _logarithmic(axes.xaxis, axes.set_xscale)
        _logarithmic(axes.yaxis, axes.set_yscale)
        axes.set_ylim(bottom=0.7)
        if threshold is not None and np.isfinite(threshold):
            axes.axvline(threshold, color=svg.SERIES[1], linewidth=1.4, linestyle="--")
        axes.set_xlabel("score")
        axes.set_ylabel("rows")

    return Plot(_figure(name, draw, description))


def lines(name: str, chart: Lines, description: str) -> Plot | None:
    """A line a series, those of controls dashed; None where nothing can be drawn."""
    drawn = [(series, _finite(series.points)) for series in chart.series]
    drawn = [(series, points) for series, points in drawn if len(points)]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for i, (series, points) in enumerate(drawn):
            style = "--" if series.control else "-"
            marker = "o" if len(points) == 1 else None
            axes.plot(points[:, 0], points[:, 1], color=_colour(i), linestyle=style, marker=marker)
        axes.set_xlabel(chart.x, parse_math=False)
        axes.set_ylabel(chart.y, parse_math=False)

    legend = [(series.label, svg.VARIABLES[_colour(i)], series.control) for i, (series, _) in enumerate(drawn)]
    return Plot(_figure(name, draw, description), legend)


def bars(name: str, chart: Bars, description: str) -> Plot | None:
    """Horizontal bars with their intervals, and dotted levels; None where nothing can be drawn."""
    drawn = [bar for bar in chart.bars if np.isfinite(bar.value)]
    levels = [(label, value) for label, value in chart.levels if np.isfinite(value)]
    if not drawn:
        return None
    groups = list(dict.fromkeys(bar.group for bar in drawn))
    places = np.arange(len(drawn))[::-1]

    def draw(axes: Axes) -> None:
        for place, bar in zip(places, drawn, strict=True):
            axes.barh(place, bar.value, height=0.66, color=_colour(groups.index(bar.group)), alpha=0.85)
            if bar.low is not None and bar.high is not None and np.isfinite([bar.low, bar.high]).all():
                axes.hlines(place, bar.low, bar.high, color=svg.INK, linewidth=1.2)
        for _, value in levels:
            axes.axvline(value, color=svg.MUTED, linewidth=1.2, linestyle=":")
        axes.axvline(0, color=svg.INK, linewidth=0.8)
        axes.set_yticks(places, [_cut(bar.label) for bar in drawn], parse_math=False)
        axes.set_ylim(-0.6, len(drawn) - 0.4)
        axes.grid(False, axis="y")
        axes.set_xlabel(chart.unit, parse_math=False)

    legend = [(group, svg.VARIABLES[_colour(i)], False) for i, group in enumerate(groups)]
    legend += [(label, svg.VARIABLES[svg.MUTED], True) for label, _ in levels]
    size = (1.3 * SIZE[0], 0.7 + BAR * len(drawn))
    return Plot(_figure(name, draw, description, size), legend)


def _cut(label: str) -> str:
    return label if len(label) <= NAME else f"{label[: NAME - 1]}…"


def _figure(name: str, draw: Callable[[Axes], None], description: str, size: tuple[float, float] = SIZE) -> Markup:
    with matplotlib.rc_context(svg.STYLE):
        figure = Figure(size, layout="constrained")
        draw(figure.add_subplot())
        figure.patch.set_visible(False)
        return svg.inline(figure, name, description)


def _line(i: int) -> dict[str, Any]:
    """Colour of series i; the second round through the colours is dashed."""
    return {"color": _colour(i), "linestyle": "-" if i < len(svg.SERIES) else "--"}


def _colour(i: int) -> str:
    return svg.SERIES[i % len(svg.SERIES)]


def _legend(labels: Sequence[str]) -> list[tuple[str, str, bool]]:
    return [(label, svg.VARIABLES[_colour(i)], i >= len(svg.SERIES)) for i, label in enumerate(labels)]


def _logarithmic(axis: Axis, set_scale: Callable[[str], None]) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1).removeprefix("1 \u00d7 ")))
    axis.set_minor_formatter(NullFormatter())


def _finite(curve: Curve | np.ndarray) -> np.ndarray:
    """The finite points of a curve, [n, 2]."""
    points = np.asarray(curve, np.float64).reshape(-1, 2)
    return points[np.isfinite(points).all(1)]


def _positive(values: np.ndarray) -> np.ndarray:
    """Finite positive values in falling order."""
    flat = np.asarray(values, np.float64).ravel()
    return np.sort(flat[np.isfinite(flat) & (flat > 0)])[::-1]
