"""The page as a whole: complete, escaped, self-contained, well-formed, the same every time."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.report.data import Report, Suspect
from pipeline.report.page import render
from pipeline.tasks.base import Shown
from tests.report.example_report import full, minimal, words
from tests.report.html_checks import Page, read

EXAMPLES = {"full": full, "minimal": minimal, "words": words}
HOSTILE = "</textarea></code><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }} $\\frac$ & �"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make()) for name, make in EXAMPLES.items()}


def mapped(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed, keys of mappings included."""
    if isinstance(value, str):
        return change(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: mapped(getattr(value, f.name), change) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    if isinstance(value, dict):
        return {mapped(k, change): mapped(v, change) for k, v in value.items()}
    return [mapped(v, change) for v in value] if isinstance(value, (list, tuple)) else value


def numbers(value: Any) -> Iterator[float]:
    """Every single number in `value`; arrays and curves are drawn, not printed."""
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        yield float(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            if field.name not in ("chart", "curve", "history", "scores"):
                yield from numbers(getattr(value, field.name))
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(numbers(v) for v in value.values())
    elif isinstance(value, (list, tuple)):
        yield from itertools.chain.from_iterable(numbers(v) for v in value)


@pytest.mark.parametrize("name", EXAMPLES)
def test_page_is_well_formed(pages: dict[str, str], name: str) -> None:
    assert pages[name].startswith("<!DOCTYPE html>")
    page = Page(pages[name])
    ids = page.attributes("id")
    assert len(set(ids)) == len(ids)
    assert all(image["alt"] for image in page.of("img"))
    assert len(page.of("h1")) == 1
    targets = [a["href"] for a in page.of("a")]
    assert targets and all(t is not None and t.removeprefix("#") in ids for t in targets)


@pytest.mark.parametrize("name", EXAMPLES)
def test_nothing_is_loaded_from_elsewhere(pages: dict[str, str], name: str) -> None:
    page = Page(pages[name])
    references = page.attributes("src", "href", "xlink:href", "srcset", "data", "action")
    assert references
    assert all(r.startswith(("#", "data:")) for r in references)
    assert pages[name].count("url(") == pages[name].count("url(#")
    assert "@import" not in pages[name]
    assert "http://" not in pages[name] and "https://" not in pages[name]


def test_every_text_reaches_the_page() -> None:
    for make in (full, words):
        tokens = (f"token{i:05d}x" for i in itertools.count())
        seen: dict[str, str] = {}

        def change(text: str, seen: dict[str, str] = seen, tokens: Iterator[str] = tokens) -> str:
            return seen.setdefault(text, next(tokens))

        report = mapped(dataclasses.replace(make(), scores=None), change)
        page = Page(render(report))
        hidden = [original for original, token in seen.items() if token not in page.text]
        assert seen and not hidden


@pytest.mark.parametrize("make", EXAMPLES.values(), ids=EXAMPLES)
def test_hostile_text_is_escaped_everywhere(make: Callable[[], Report]) -> None:
    html = render(mapped(make(), lambda text: HOSTILE + text))
    plain = render(make())
    assert "<script>alert" not in html and "<img src=x" not in html
    assert [t for t, _ in Page(html).tags if t == "script"] == ["script"]
    assert not any(name.startswith("on") for _, attrs in Page(html).tags for name in attrs)
    assert sum(t == "img" for t, _ in Page(html).tags) == sum(t == "img" for t, _ in Page(plain).tags)
    assert HOSTILE in Page(html).text


def test_hostile_table_keys_and_long_texts_are_escaped() -> None:
    shown = Shown(text=HOSTILE * 200, table={HOSTILE: HOSTILE, "n": 3})
    report = dataclasses.replace(minimal(), suspects=[Suspect(1, 0, 1.0, HOSTILE, HOSTILE + "2", shown=shown)])
    html = render(report)
    assert "<script>alert" not in html and "<img" not in html
    assert Page(html).text.count(HOSTILE) >= 100


def test_policy_admits_only_the_pages_own_script(pages: dict[str, str]) -> None:
    import base64

    html = pages["full"]
    script = html.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (m["content"] for m in Page(html).of("meta") if "http-equiv" in m)
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_same_report_gives_the_same_bytes(pages: dict[str, str]) -> None:
    code = (
        "import hashlib; from pipeline.report.page import render; from tests.report.example_report import full;"
        "print(hashlib.sha256(render(full()).encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    other = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert render(full()) == pages["full"]
    assert other.stdout.strip() == hashlib.sha256(pages["full"].encode()).hexdigest()


@pytest.mark.parametrize("name", EXAMPLES)
def test_printed_numbers_are_those_that_came_in(pages: dict[str, str], name: str) -> None:
    printed = Page(pages[name]).data
    for value, text in printed:
        if not math.isfinite(float(value)):
            assert text == "NaN"
            continue
        got, half = read(text)
        assert abs(got - float(value)) <= half * (1 + 1e-9), f"{value} was printed as {text}"
    report = EXAMPLES[name]()
    values = {float(value) for value, _ in printed if value != "nan"}
    missing = {x for x in numbers(report) if math.isfinite(x)} - values
    assert not missing


def test_rendering_needs_no_torch() -> None:
    code = "import sys, pipeline.report.page; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(root)}, check=True)


def test_absent_parts_leave_no_trace(pages: dict[str, str]) -> None:
    page = Page(pages["minimal"])
    assert page.attributes("id").count("suspects") == 1
    assert not {"queries", "minimum", "behind", "evaluation", "filter"} & set(page.attributes("id"))
    assert "No suspects" in page.text and "labels should" not in page.text
    assert "NaN" not in page.text and "None" not in page.text


def test_regression_has_no_suggestions(pages: dict[str, str]) -> None:
    page = Page(pages["words"])
    classes = " ".join(page.attributes("class")).split()
    assert "suggested" not in classes and "given" in classes
    assert "506 rows have no finite score" in page.text
    assert "margin" not in page.text
    assert "nothing to show" in page.text


def test_long_text_unfolds_and_is_cut_at_last() -> None:
    text = "".join(chr(97 + i % 26) for i in range(20_050))
    report = dataclasses.replace(minimal(), suspects=[Suspect(1, 0, 1.0, shown=Shown(text=text))])
    page = Page(render(report))
    joined = page.text.replace("… more", "").replace("\n", "")
    assert text[:20_000] in joined and text[:20_001] not in joined
    assert ("50", "50") in page.data
    assert "details" in [t for t, _ in page.tags]


def test_suspects_are_tagged_for_the_filter(pages: dict[str, str]) -> None:
    report = full()
    page = Page(pages["full"])
    labels = sorted({s.given for s in report.suspects if s.given})
    tags = [attrs["data-label"] for attrs in page.of("li") if "data-label" in attrs]
    assert [labels[int(t or -1)] for t in tags] == [s.given for s in report.suspects]
    assert len(page.of("option")) == 1 + len(labels)


def test_image_of_another_shape_is_refused() -> None:
    shown = Shown(image=np.zeros((3, 8, 8), np.uint8))
    report = dataclasses.replace(minimal(), suspects=[Suspect(1, 0, 1.0, shown=shown)])
    with pytest.raises(DataError, match=r"expected an image \[H, W\] or \[H, W, 3\] of uint8, got \[3, 8, 8\]"):
        render(report)


def test_many_classes_print_pairs_instead_of_a_matrix() -> None:
    from pipeline.report.data import Confusion

    counts = np.zeros((30, 30), int)
    counts[4, 7], counts[5, 5], counts[1, 2] = 3, 9, 1
    confusion = Confusion([f"class {i}" for i in range(30)], counts)
    page = Page(render(dataclasses.replace(minimal(), confusion=confusion)))
    assert "matrix" not in " ".join(page.attributes("class"))
    assert page.text.index("class 4") < page.text.index("class 1")
    assert "class 5" not in page.text
