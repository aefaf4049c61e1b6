"""Sentences with everybody's ratings, read from the archive of Hutto and Gilbert (ICWSM 2014) without unpacking it.

The archive hutto_ICWSM_2014.tar.gz lies in the source distribution of vaderSentiment 3.3.2; either may be given. Each
of four domains has two tab-separated files: `*_GroundTruth.txt` (id, mean, text) and `*_anonDataRatings.txt` (id, mean,
deviation, [ratings]). Ratings go from -4 to 4. The stored means are not used: those of 196 tweets differ from theirs.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import DataError

DOMAINS = {
    "tweets": "tweets",
    "movie": "movieReviewSnippets",
    "amazon": "amazonReviewSnippets",
    "nyt": "nytEditorialSnippets",
}
FIRST_NEGATIVE = 5153
"""Film reviews are in the order of what the critic thought: positive ones first. Nothing in the archive says so but the
order: the crowd agrees with it on 96 %."""
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "hutto_ICWSM_2014.tar.gz"
LARGEST_MEMBER_BYTES = 64 * 2**20  # the real ones are below 3 MB; more is no archive of ours
HOW_TO_GET = (
    "run `pip download --no-deps --no-binary :all: vaderSentiment==3.3.2` and name the .tar.gz in task.options.path"
)


@dataclass(frozen=True)
class Rated:
    """A sentence and what people thought of it.

    Attributes:
        key: what the archive calls it.
        text: the sentence.
        ratings: [R] integers, -4 (negative) to 4 (positive), one for each rater.
    """

    key: str
    text: str
    ratings: np.ndarray[Any, Any]


def read_archive(path: Path | None, domain: str) -> list[Rated]:
    """The sentences of a domain, in the order of the file; of a sentence that occurs twice the first is kept.

    Args:
        path: hutto_ICWSM_2014.tar.gz, or the source distribution that holds it.
        domain: a key of `DOMAINS`.

    Raises:
        DataError: no file, not such an archive, another version, or lines that do not fit.
    """
    data = _open(path)
    stem = DOMAINS[domain]
    texts = _lines(data, f"{stem}_GroundTruth.txt", 3)
    ratings = {line[0]: line[3] for line in _lines(data, f"{stem}_anonDataRatings.txt", 4)}
    rated: dict[str, Rated] = {}
    for key, _, text in texts:
        if key not in ratings:
            raise DataError(f"expected ratings of sentence {key} in {stem}_anonDataRatings.txt, got none; {HOW_TO_GET}")
        rated.setdefault(text, Rated(key, text, _ratings(ratings[key], f"{stem} {key}")))
    return list(rated.values())


def critics(rated: list[Rated]) -> np.ndarray[Any, Any]:
    """What the critic thought of film reviews, [N], 0 negative or 1 positive.

    Raises:
        DataError: a sentence that is not numbered as film reviews are.
    """
    numbers = [row.key for row in rated]
    for number in numbers:
        if not number.isdecimal():
            raise DataError(f"expected film reviews numbered from 1, got {number!r}; {HOW_TO_GET}")
    return np.array([int(number) < FIRST_NEGATIVE for number in numbers], dtype=np.int64)


def _open(path: Path | None) -> bytes:
    """The bytes of the inner archive."""
    if path is None or not path.is_file():
        raise DataError(f"expected the archive of ratings, found {path or 'no path'}; {HOW_TO_GET}")
    data = path.read_bytes()
    inner = _member(data, INNER, path.name)
    if inner is None:
        return data
    if (found := hashlib.sha256(data).hexdigest()) != SDIST_SHA256:
        raise DataError(f"expected {path.name} with sha256 {SDIST_SHA256}, got {found}; {HOW_TO_GET}")
    return inner


def _member(archive: bytes, name: str, called: str) -> bytes | None:
    """The content of the regular file `name`, in whatever folder of the archive; nothing is written anywhere."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                if member.isreg() and member.name.rpartition("/")[2] == name:
                    return _content(tar, member)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"expected a .tar.gz in {called}, got {type(error).__name__}: {error}; {HOW_TO_GET}") from error
    return None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > LARGEST_MEMBER_BYTES:
        raise DataError(f"expected {member.name} below {LARGEST_MEMBER_BYTES} bytes, got {member.size}; {HOW_TO_GET}")
    file = tar.extractfile(member)
    assert file is not None  # only links and devices have none
    return file.read()


def _lines(archive: bytes, name: str, columns: int) -> list[list[str]]:
    data = _member(archive, name, INNER)
    if data is None:
        raise DataError(f"expected {name} in {INNER}, found none; {HOW_TO_GET}")
    try:
        text = data.decode("utf-8-sig")  # one file begins with a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8 in {name}, got {error}; {HOW_TO_GET}") from error
    lines = [line.split("\t") for line in text.replace("\r\n", "\n").split("\n") if line]
    for number, line in enumerate(lines, 1):
        if len(line) != columns:
            raise DataError(f"expected {columns} columns in line {number} of {name}, got {len(line)}; {HOW_TO_GET}")
    return lines


def _ratings(text: str, where: str) -> np.ndarray[Any, Any]:
    try:
        ratings = np.array(json.loads(text), dtype=np.int64)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"expected a list of ratings of {where}, got '{text[:40]}'; {HOW_TO_GET}") from error
    if ratings.ndim != 1 or len(ratings) < 4 or np.abs(ratings).max() > 4:
        raise DataError(f"expected four or more ratings from -4 to 4 of {where}, got '{text[:40]}'; {HOW_TO_GET}")
    return ratings
