"""Numbers, images, figures and views, each against a slow and obvious way."""

from __future__ import annotations

import base64
import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import DataError
from pipeline.report import figures, images, printed, views
from pipeline.report.data import (
    INFLUENCE,
    Bar,
    Bars,
    Confusion,
    Curvature,
    Hit,
    Lines,
    QueryAnswer,
    ScoreKind,
    Scores,
    Series,
    Sharpness,
)
from tests.report.html_checks import Page, read

FINITE = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e250, max_value=1e250)


@given(FINITE, st.integers(1, 6))
def test_number_is_right_to_its_last_digit(value: float, digits: int) -> None:
    got, half = read(printed.number(value, digits))
    assert abs(got - value) <= half * (1 + 1e-6)
    assert half <= 5 * abs(value) * 10.0 ** -(digits - 1) or value == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "0.0123"),
        (-12.34, "−12.3"),
        (1234.4, "1,234"),
        (99999.7, "1.00 × 10⁵"),
        (1.234e-5, "1.23 × 10⁻⁵"),
        (0.0, "0"),
        (None, "–"),
        (math.nan, "NaN"),
        (-math.inf, "−∞"),
        (np.float32(2.5), "2.50"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert printed.number(value) == text


@given(st.integers(0, 10**15), st.floats(1e-9, 10**8))
def test_sizes_and_durations_are_right_to_their_last_digit(size: int, duration: float) -> None:
    cases = [(size, printed.size(size)), (size, printed.count(size)), (duration, printed.duration(duration))]
    for value, text in cases:
        got, half = read(text)
        assert abs(got - value) <= half * (1 + 1e-6)


def test_settings_are_not_padded() -> None:
    assert [printed.setting(x) for x in (0.2, 1.0, 1e-6, None)] == ["0.2", "1", "1e−06", "–"]


def test_cells_tell_numbers_from_text() -> None:
    assert printed.cell("<b>") == "<b>" and not hasattr(printed.cell("<b>"), "__html__")
    assert printed.cell(True) == "True"
    assert printed.cell(np.int64(12345)) == '<data value="12345">12,345</data>'
    assert printed.cell(np.float64(0.5)) == '<data value="0.5">0.5000</data>'


@pytest.mark.parametrize("shape", [(8, 8), (28, 20), (5, 7, 3), (1, 1), (64, 130, 3)])
def test_image_round_trip(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    uri = images.data_uri(image)
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    scale = images.factor(*shape[:2])
    assert decoded.shape[:2] == (shape[0] * scale, shape[1] * scale)
    for i in range(scale):
        assert (decoded[i::scale, i::scale] == image).all()
    assert images.is_small(image) == (scale > 1)


def test_large_image_is_reduced() -> None:
    uri = images.data_uri(np.zeros((1000, 500), np.uint8))
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (192, 384)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_image_of_another_kind_is_refused(image: np.ndarray) -> None:
    with pytest.raises(DataError, match="expected an image"):
        images.data_uri(image)


def test_curves_leave_out_what_is_not_finite() -> None:
    plot = figures.curves("a", [("x", [(0, 1.0), (1, math.nan), (2, 0.5)]), ("y", [(0, math.inf)]), ("z", [])], "d")
    same = figures.curves("a", [("x", [(0, 1.0), (2, 0.5)])], "d")
    assert plot is not None and same is not None
    assert [name for name, _, _ in plot.legend] == ["x"]
    assert plot.markup == same.markup
    assert figures.curves("a", [("y", [(0, math.inf)])], "d") is None


def test_later_series_reuse_colours_dashed() -> None:
    plot = figures.curves("a", [(str(i), [(0, i), (1, i + 1)]) for i in range(8)], "d")
    assert plot is not None
    assert [(c, dashed) for _, c, dashed in plot.legend][5:7] == [("--c6", False), ("--c1", True)]


@pytest.mark.parametrize(
    "eigenvalues", [[1.0], [2.0, 2.0], [1.0, 0.0, -1e-9], [1e-12, 1e12, math.nan], list(range(1, 3000))]
)
def test_spectrum_draws_any_positive_eigenvalues(eigenvalues: list[float]) -> None:
    curvature = Curvature("$\\frac$", "GGN", 5, 1, 1.0, 0.1, np.array(eigenvalues))
    plot = figures.spectrum("s", [curvature], "d")
    assert plot is not None
    Page(plot.markup)
    assert len(plot.markup) < 60_000


def test_spectrum_of_nothing() -> None:
    assert figures.spectrum("s", [Curvature("a", "GGN", 5, 0, 1.0, 0.0, np.zeros(3))], "d") is None


@pytest.mark.parametrize("values", [[1.0], [0.0, 0.0], [-1.0, 1.0], [1e-9, 1.0, math.nan], [-5.0, -5.0, -math.inf]])
@pytest.mark.parametrize("threshold", [None, 0.5, math.nan])
def test_distribution_draws_any_finite_scores(values: list[float], threshold: float | None) -> None:
    plot = figures.distribution("s", np.array(values), threshold, "d")
    assert plot is not None
    Page(plot.markup)
    assert ("var(--c2)" in plot.markup) == (threshold == 0.5)


def test_lines_of_controls_are_dashed_and_of_nothing_are_none() -> None:
    points = np.array([[0, 0.0], [1, math.nan], [2, 1.0]])
    series = [Series("a", points), Series("b", points, control=True), Series("empty", np.zeros((0, 2)))]
    plot = figures.lines("lines", Lines("t", "c", series, "x $_$", "y"), "d")
    assert plot is not None and [(label, dashed) for label, _, dashed in plot.legend] == [("a", False), ("b", True)]
    assert "x $_$" in plot.markup and plot.markup.count("stroke-dasharray") == 1
    assert figures.lines("lines", Lines("t", "c", series[2:], "x", "y"), "d") is None


def test_bars_have_their_names_groups_and_levels() -> None:
    bars = [Bar("one $x$ <b>", 0.5, 0.4, 0.7, "scores"), Bar("two", -0.1, None, None, "controls"), Bar("no", math.nan),
            Bar("very " * 30, 0.2, group="scores")]  # fmt: skip
    plot = figures.bars("bars", Bars("t", "c", bars, "LDS", [("ceiling", 0.9), ("none", math.nan)]), "d")
    assert plot is not None
    assert [(label, dashed) for label, _, dashed in plot.legend] == [
        ("scores", False),
        ("controls", False),
        ("ceiling", True),
    ]
    assert "one $x$ &lt;b&gt;" in plot.markup and ">no<" not in plot.markup and ("very " * 30) not in plot.markup
    assert plot.markup.count("var(--c1)") == 2 and plot.markup.count("var(--c2)") == 1
    assert figures.bars("bars", Bars("t", "c", bars[2:3], "LDS"), "d") is None


def test_figures_follow_the_page() -> None:
    plot = figures.curves("a", [("x", [(0, 1.0), (1, 0.5)])], 'a "description" & more')
    other = figures.curves("b", [("x", [(0, 1.0), (1, 0.5)])], "d")
    assert plot is not None and other is not None
    page = Page(plot.markup)
    assert page.of("svg")[0]["aria-label"] == 'a "description" & more'
    assert not {"style", "metadata"} & {tag for tag, _ in page.tags}
    assert not re.search(r"#0?10[0-9a-f]{4}", plot.markup) and "DejaVu" not in plot.markup
    assert not set(page.attributes("id")) & set(Page(other.markup).attributes("id"))
    ids = set(page.attributes("id"))
    used = re.findall(r"url\(#([^)]*)\)", plot.markup) + [h.removeprefix("#") for h in page.attributes("href")]
    assert used and set(used) <= ids


def answer(top: list[float], bottom: list[float], kind: ScoreKind = INFLUENCE) -> QueryAnswer:
    return QueryAnswer(0, [Hit(1, 0, s) for s in top], [Hit(1, 0, s) for s in bottom], kind=kind)


def test_headings_never_deny_the_signs() -> None:
    unsigned = ScoreKind("S", "flat", "unsigned", signed=False)
    cases = [
        (answer([2, 1], [-1]), ["Helped most", "Harmed most"]),
        (answer([2, 1], [0.5]), ["Helped most", "Helped least (none harmed)"]),
        (answer([-2], [-3]), ["Harmed least (none helped)", "Harmed most"]),
        (answer([2], [1], unsigned), ["Matter most", "Matter least"]),
        (answer([2], []), ["Helped most"]),
    ]
    for query, headings in cases:
        assert [side.heading for side in views.sides(query)] == headings


def test_bars_and_tones_of_scores() -> None:
    top, bottom = views.sides(answer([4.0, math.nan, 0.0], [-1.0, 2.0]))
    assert [(bar, tone) for _, bar, tone in top.hits] == [(100, "help"), (None, "plain"), (0, "plain")]
    assert [(bar, tone) for _, bar, tone in bottom.hits] == [(25, "harm"), (50, "help")]


def test_sharpness_ratio() -> None:
    before, after = Sharpness("trained", 2.0, -0.1, 0.2), Sharpness("flat", 0.5, 0.1, 0.2)
    sam, noise = views.changes([before, after])
    assert (sam.ratio, noise.ratio) == (4.0, None)
    assert [c.name for c in views.changes([before])] == [sam.name, noise.name]
    assert views.changes([before])[0].ratio is None
    assert views.changes([Sharpness("a"), Sharpness("b")]) == []


def test_pairs_are_the_most_frequent_first() -> None:
    counts = np.array([[5, 1, 0], [2, 0, 3], [0, 0, 0]])
    found = [(p.given, p.suggested, p.count) for p in views.pairs(Confusion("abc", counts))]
    assert found == [("b", "c", 3), ("b", "a", 2), ("a", "b", 1)]


def test_scores_by_class() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=200)
    values[3] = math.nan
    given = [f"c{k}" for k in generator.integers(0, 30, 200)]
    found = views.by_class(Scores(values, given))
    assert len(found) == views.BY_CLASS
    assert [c.high for c in found] == sorted((c.high for c in found), reverse=True)
    for c in found:
        own = [v for v, g in zip(values, given, strict=True) if g == c.given and not math.isnan(v)]
        assert (c.rows, c.median, c.high) == (len(own), np.median(own), np.percentile(own, 95))
    assert views.by_class(Scores(values)) == []
    assert views.not_finite(Scores(values)) == 1
