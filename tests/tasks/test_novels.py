"""Novels: R's stored texts, directories of texts, and passages that keep apart."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import pytest

from pipeline.errors import DataError
from pipeline.tasks.austen import read_sources
from pipeline.tasks.checks import check_task
from pipeline.tasks.novels import STRETCH, Novels

SIZES = {"train_each": 30, "validation_each": 5, "query_each": 3, "words": 6, "epochs": 1, "width": 8}


def serialised(lines: list[str]) -> bytes:
    """R's binary form, version 3, of a vector of strings, as R writes it into an .rdb file."""
    body = b"X\n" + struct.pack(">III", 3, 0x00040201, 0x00030500) + struct.pack(">I", 5) + b"UTF-8"
    body += struct.pack(">II", 16, len(lines))
    for line in lines:
        content = line.encode()
        body += struct.pack(">II", 0x00040009, len(content)) + content
    return struct.pack(">I", len(body)) + zlib.compress(body)


def novel(title: str, word: str) -> list[str]:
    letters = "abcdefghij"
    lines = [f"{word}{letters[i // 100]}{letters[i // 10 % 10]}{letters[i % 10]} walked on {i}." for i in range(250)]
    return ["", title.upper(), "", *lines]


@pytest.fixture
def rdb(tmp_path: Path) -> Path:
    path = tmp_path / "Rdata.rdb"
    path.write_bytes(serialised(novel("Sea and Sand", "sand")) + serialised(novel("A Hill", "hill")))
    return path


def test_texts_of_an_r_package_are_read_under_their_titles(rdb: Path) -> None:
    texts = read_sources(rdb)
    assert list(texts) == ["A Hill", "Sea And Sand"]
    assert texts["A Hill"].splitlines() == novel("A Hill", "hill")


def test_a_directory_of_texts_will_do(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text")
    assert read_sources(tmp_path) == {"a": "a text", "b": "b text"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected at least two texts at"),
        (b"\0\0", "expected novels at"),
        (struct.pack(">I", 8) + b"no stream", "expected novels at"),
        (struct.pack(">I", 2**31) + b"x", "expected less than"),
        (struct.pack(">I", 20) + zlib.compress(b"A\n" + bytes(20)), "expected R's binary serialisation"),
        (struct.pack(">I", 30) + zlib.compress(b"X\n" + struct.pack(">5I", 2, 0, 0, 13, 1)), "expected a vector of"),
        (
            struct.pack(">I", 30) + zlib.compress(b"X\n" + struct.pack(">7I", 2, 0, 0, 16, 1, 9, 99)),
            "expected a string",
        ),
    ],
)
def test_what_is_no_such_file_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "Rdata.rdb").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_sources(tmp_path / "Rdata.rdb")
    assert str(caught.value).startswith(said) and "apt-get install r-cran-janeaustenr" in str(caught.value)


def test_nothing_at_the_path_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^expected novels at .*none, got FileNotFoundError.*apt-get install"):
        read_sources(tmp_path / "none")


def test_passages_of_a_split_come_in_stretches_of_their_own(rdb: Path) -> None:
    task = Novels(rdb, **SIZES)
    facts = check_task(task)
    assert (facts.train, facts.validation, facts.query) == (60, 10, 6)
    assert task.groups("train") == ["A Hill"] * 30 + ["Sea And Sand"] * 30
    texts = {split: {text.completion for text in getattr(task._splits, split)} for split in ("train", "validation")}
    assert not texts["train"] & texts["validation"]
    whole = " ".join(text.completion for text in task._splits.train[:STRETCH])
    assert whole.split() == " ".join(whole.split()).split() and len(task._splits.train[0].completion.split()) == 6
    assert task.sources() == [rdb]


def test_more_passages_than_there_are_is_refused(rdb: Path) -> None:
    with pytest.raises(DataError, match=r"^expected \d+ passages of 6 words in 'A Hill', got \d+; ask for fewer"):
        Novels(rdb, **{**SIZES, "train_each": 5000})
