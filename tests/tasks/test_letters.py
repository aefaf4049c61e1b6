"""Letters from UCI's lines and from R's data."""

from __future__ import annotations

import lzma
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import DataError
from pipeline.tasks.letters import read_letters
from pipeline.tasks.load import load
from pipeline.tasks.r_data import read_frame
from tests.tasks.files import write_letters


def words(*values: int) -> bytes:
    return struct.pack(f">{len(values)}i", *values)


def text(value: str) -> bytes:
    return words(9 | 64 << 12, len(value)) + value.encode()


def strings(values: list[str]) -> bytes:
    return words(16, len(values)) + b"".join(map(text, values))


def pairs(cells: list[tuple[bytes, bytes]]) -> bytes:
    return b"".join(words(2 | 1024) + tag + value for tag, value in cells) + words(254)


def symbol(name: str) -> bytes:
    return words(1) + text(name)


def frame(letters: list[str], columns: dict[str, np.ndarray], version: int = 2) -> bytes:
    """What R's `save` writes of a data frame with a factor and columns of numbers."""
    levels = sorted(set(letters))
    codes = words(13 | 512 | 256, len(letters), *[levels.index(letter) + 1 for letter in letters])
    factor = codes + pairs([(symbol("levels"), strings(levels)), (symbol("class"), strings(["factor"]))])
    body = [factor]
    for values in columns.values():
        kind, code = (14, "d") if values.dtype.kind == "f" else (13, "i")
        body.append(words(kind, len(values)) + struct.pack(f">{len(values)}{code}", *values.tolist()))
    names = ["lettr", *columns]
    # `class` was met before: a reference to the second symbol of the file's table, after the frame's own and `levels`
    attributes = pairs([(symbol("names"), strings(names)), (words(255 | 3 << 8), strings(["data.frame"]))])
    saved = words(19 | 512, len(body)) + b"".join(body) + attributes
    head = b"RDX%d\nX\n" % version + words(version, 0, 0) + (words(5) + b"UTF-8" if version == 3 else b"")
    return head + pairs([(symbol("LetterRecognition"), saved)])


def made(count: int = 260) -> tuple[list[str], dict[str, np.ndarray]]:
    draw = np.random.default_rng(0)
    columns: dict[str, Any] = {f"x{i}": draw.integers(0, 15, count) for i in range(15)}
    return [chr(65 + i % 26) for i in range(count)], {**columns, "x15": draw.normal(size=count)}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [True, False])
def test_r_data_are_read_as_written(tmp_path: Path, version: int, packed: bool) -> None:
    letters, columns = made()
    data = frame(letters, columns, version)
    (tmp_path / "a.rda").write_bytes(lzma.compress(data) if packed else data)
    numbers, labels = read_letters(tmp_path / "a.rda")
    assert np.array_equal(numbers, np.stack([values.astype(float) for values in columns.values()], 1))
    assert [chr(65 + label) for label in labels] == letters


def test_lines_are_read_as_written(tmp_path: Path) -> None:
    numbers, labels = read_letters(write_letters(tmp_path / "l.data"))
    assert numbers.shape == (260, 16) and labels.tolist() == [i % 26 for i in range(260)]
    write_letters(tmp_path / "l.data", 1000)
    options = {"path": str(tmp_path / "l.data"), "train_size": 600, "validation_size": 50, "query_size": 50}
    for kind in ("uniform", "confusable", "instance"):
        task = load("letters", {**options, "noise": kind, "noise_rate": 0.1}, Path())
        assert (np.array(task.labels) != np.array(task.true_labels)).sum() == 60


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^expected a file at .*, found none; install Debian's package r-cran-mlbench"):
        read_letters(tmp_path / "none.rda")
    letters, columns = made()
    closure = b"RDX2\nX\n" + words(2, 0, 0) + pairs([(symbol("LetterRecognition"), words(3) + words(254))])
    for data in (b"", b"junk", frame(letters, columns)[:900], lzma.compress(frame(letters, columns))[:200], closure):
        (tmp_path / "bad.rda").write_bytes(data)
        with pytest.raises(DataError, match=r"^expected R's data frame LetterRecognition in bad.rda, got "):
            read_frame(tmp_path / "bad.rda", "LetterRecognition")
    (tmp_path / "bad.data").write_text("A,1,2\nB,x,3\n")
    with pytest.raises(DataError, match="expected lines of a letter and numbers in bad.data"):
        read_letters(tmp_path / "bad.data")
    (tmp_path / "bad.data").write_text("A,1,2\nB,4,3\n")
    with pytest.raises(DataError, match="expected capital letters and 16 numbers"):
        read_letters(tmp_path / "bad.data")
