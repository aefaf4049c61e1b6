"""Reading a page back: tags balanced, attributes and numbers collected."""

from __future__ import annotations

import math
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """A page read strictly: a tag that closes another than the last opened one raises."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.data: list[tuple[str, str]] = []  # (value, what is printed) of each <data>
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"an attribute twice in {tag}: {names}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "data":
            self.data.append((dict(attrs)["value"] or "", ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"self-closing {tag}: HTML reads it as open")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> within {self.open}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "data":
            value, text = self.data[-1]
            self.data[-1] = (value, text + data)
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    def attributes(self, *names: str) -> list[str]:
        """The values of the attributes of these names, wherever they are."""
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]

    def of(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of each element of one kind."""
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        """All that is printed."""
        return "".join(self.texts)


UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
UNITS["%"] = 0.01
SUPERSCRIPTS = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def read(text: str) -> tuple[float, float]:
    """A printed number back: its value and half a unit of its last printed digit."""
    number, *rest = text.replace("−", "-").split(" ")
    scale = math.prod(UNITS[word] for word in rest if word in UNITS)
    if "×" in rest:
        scale *= 10.0 ** int(rest[1].removeprefix("10").translate(SUPERSCRIPTS))
    elif "e" in number:
        number, _, exponent = number.partition("e")
        scale = 10.0 ** int(exponent)
    decimals = len(number.partition(".")[2])
    return float(number.replace(",", "")) * scale, 0.5 * 10.0**-decimals * scale
