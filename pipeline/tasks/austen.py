"""The six novels of Jane Austen as Debian's package r-cran-janeaustenr has them, or any texts in a directory.

R keeps a package's data in `Rdata.rdb`: one after the other, each compressed on its own, in R's serialisation. A novel
is a vector of strings, a string a line; only such vectors are read here, the rest of the format is refused.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from pipeline.errors import DataError

PACKAGED = Path("/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb")
ADVICE = "apt-get install r-cran-janeaustenr, or name in task.options.path its Rdata.rdb or a directory of .txt files"
STRINGS, STRING = 16, 9
"""R's numbers for a vector of strings and for a string (R Internals, 1.8 Serialization Formats)."""
MOST_BYTES = 2**26


def read_sources(path: Path | None) -> dict[str, str]:
    """Name of each source and its text, in the order of the names.

    Args:
        path: Rdata.rdb, a directory of .txt files, one a source; None: where Debian's package lies.

    Raises:
        DataError: nothing there, or not of that form.
    """
    path = PACKAGED if path is None else path
    try:
        if path.is_dir():
            texts = {file.stem: file.read_text("utf-8") for file in sorted(path.glob("*.txt"))}
        else:
            texts = dict(sorted(_titled(lines) for lines in _records(path.read_bytes())))
    except (OSError, UnicodeDecodeError, zlib.error, struct.error, IndexError) as error:
        raise DataError(f"expected novels at {path}, got {type(error).__name__}: {error}; {ADVICE}") from error
    if len(texts) < 2:
        raise DataError(f"expected at least two texts at {path}, got {len(texts)}; {ADVICE}")
    return texts


def files_of(path: Path | None) -> list[str | Path]:
    """The files that `read_sources` reads."""
    path = PACKAGED if path is None else path
    return sorted(path.glob("*.txt")) if path.is_dir() else [path]


def _titled(lines: list[str]) -> tuple[str, str]:
    """A novel and its title, which is its first line that is not empty."""
    return next(line for line in lines if line.strip()).strip().title(), "\n".join(lines)


def _records(content: bytes) -> list[list[str]]:
    """The vectors of strings of an .rdb file: [length, zlib stream] each."""
    found = []
    while content:
        (length,) = struct.unpack_from(">I", content)
        if length > MOST_BYTES:
            raise DataError(f"expected less than {MOST_BYTES} bytes of a novel, got {length}; {ADVICE}")
        stream = zlib.decompressobj()
        found.append(_strings(stream.decompress(content[4:], length)))
        content = stream.unused_data
    return found


def _strings(data: bytes) -> list[str]:
    """A serialised vector of strings."""
    if data[:2] != b"X\n":
        raise DataError(f"expected R's binary serialisation, got {data[:2]!r}; {ADVICE}")
    (version,) = struct.unpack_from(">I", data, 2)
    place = 14
    if version >= 3:  # the name of the encoding
        place += 4 + struct.unpack_from(">I", data, place)[0]
    kind, count = struct.unpack_from(">II", data, place)
    if kind & 0xFF != STRINGS:
        raise DataError(f"expected a vector of strings, got R's type {kind & 0xFF}; {ADVICE}")
    place += 8
    lines = []
    for _ in range(count):
        kind, length = struct.unpack_from(">II", data, place)
        if kind & 0xFF != STRING or place + 8 + length > len(data):
            raise DataError(f"expected a string at byte {place}, got R's type {kind & 0xFF}; {ADVICE}")
        lines.append(data[place + 8 : place + 8 + length].decode("utf-8"))
        place += 8 + length
    return lines
