"""The plots of the report: loss curves, spectra, the distribution of a score.

Legends are left to the page, so that no text of the data enters a figure (where `$` would be read as mathematics).
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
from pipeline.report.background import Curvature, Curve
from pipeline.report.printed import number

SIZE = (5.0, 2.9)  # inches; text of 10 points stays readable at the width of a phone
POINTS = 300  # drawn of a spectrum
BINS = 48


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


def _figure(name: str, draw: Callable[[Axes], None], description: str) -> Markup:
    with matplotlib.rc_context(svg.STYLE):
        figure = Figure(SIZE, layout="constrained")
        draw(figure.add_subplot())
        figure.patch.set_visible(False)
        return svg.inline(figure, name, description)


def _line(i: int) -> dict[str, Any]:
    """Colour of series i; the second round through the colours is dashed."""
    return {"color": svg.SERIES[i % len(svg.SERIES)], "linestyle": "-" if i < len(svg.SERIES) else "--"}


def _legend(labels: Sequence[str]) -> list[tuple[str, str, bool]]:
    colours = [svg.VARIABLES[svg.SERIES[i % len(svg.SERIES)]] for i in range(len(labels))]
    return [(label, colours[i], i >= len(svg.SERIES)) for i, label in enumerate(labels)]


def _logarithmic(axis: Axis, set_scale: Callable[[str], None]) -> None:
    set_scale("log")
    axis.set_major_locator(LogLocator(numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, 1).removeprefix("1 \u00d7 ")))
    axis.set_minor_formatter(NullFormatter())


def _finite(curve: Curve) -> np.ndarray:
    """The finite points of a curve, [n, 2]."""
    points = np.asarray(curve, np.float64).reshape(-1, 2)
    return points[np.isfinite(points).all(1)]


def _positive(values: np.ndarray) -> np.ndarray:
    """Finite positive values in falling order."""
    flat = np.asarray(values, np.float64).ravel()
    return np.sort(flat[np.isfinite(flat) & (flat > 0)])[::-1]
