"""The report as one HTML page that needs nothing else: no request leaves it, and it is whole without scripts.

Jinja2 escapes all that comes from data. As a second wall the page forbids itself, by a Content-Security-Policy, to load
anything or to run any script but the one whose digest it names. The same report gives the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import images, printed, views
from pipeline.report.data import Report

TEXT = 240  # characters of a text that are shown at once; the rest unfolds
LONGEST = 20_000  # characters of a text that the page holds at all


def render(report: Report) -> str:
    """The page.

    Args:
        report: all that it prints.

    Returns:
        A whole HTML document, UTF-8.

    Raises:
        DataError: an image that is not [H, W] or [H, W, 3] of uint8.
    """
    return _environment().get_template("page.html.j2").render(report=report, **_assets()) + "\n"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_source),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "setting": lambda x: printed.wrap(printed.setting(x), x),
        "count": lambda x: printed.wrap(printed.count(x), x),
        "percent": lambda x: printed.wrap(printed.percent(x), x),
        "size": lambda x: printed.wrap(printed.size(x), x),
        "duration": lambda x: printed.wrap(printed.duration(x), x),
        "cell": printed.cell,
        "data_uri": images.data_uri,
        "is_small": images.is_small,
    }
    environment.globals |= {"views": views, "TEXT": TEXT, "LONGEST": LONGEST}
    return environment


def _number(value: float | None, digits: int = 3) -> Markup:
    return printed.wrap(printed.number(value, digits), value)


def _source(name: str) -> str:
    return resources.files("pipeline.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _assets() -> dict[str, Markup | str]:
    """Style, script and the script's digest: ours, hence not escaped."""
    script = _source("filter.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {"style": Markup(_source("page.css")), "script": Markup(script), "script_digest": digest}
