"""A part of a text, by its words or its place: the loss of these tokens alone, so that one asks what taught them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipeline.errors import DataError
from pipeline.tasks.base import Row


def narrowed(row: Row, part: str, pieces: Sequence[str]) -> Row:
    """The row with only those tokens counted that make up `part`: a text of it, or positions "3:5" in the completion.

    A token that holds any of the text counts. It is looked for in the completion, then in the prompt where that counts;
    of a text that occurs several times, the first is taken.

    Args:
        row: as `pipeline.tasks.language.row_of` makes it.
        part: as typed.
        pieces: the text of each of its tokens.

    Raises:
        DataError: no such part counts.
    """
    places = row["counted"].nonzero().flatten().tolist()
    completion = [place for place in places if place >= int(row["prompt"])]
    prompt = [place for place in places if place < int(row["prompt"])]
    first, colon, last = part.partition(":")
    if colon and first.isdecimal() and last.isdecimal():
        chosen = completion[int(first) : int(last)]
    else:
        chosen = _holding(part, completion, pieces) or _holding(part, prompt, pieces)
    if not chosen:
        own = "".join(pieces[place] for place in completion)
        raise DataError(
            f"expected a part of the completion {own!r}, or its tokens as 0:{len(completion)}, got {part!r}; "
            "copy the words from it"
        )
    counted = torch.zeros_like(row["counted"])
    counted[chosen] = 1
    return {**row, "counted": counted}


def _holding(part: str, places: Sequence[int], pieces: Sequence[str]) -> list[int]:
    """The places whose tokens hold the first occurrence of `part`."""
    own = [pieces[place] for place in places]
    start = "".join(own).find(part)
    return [place for place, (begin, end) in zip(places, _extents(own), strict=True)
            if _meets(begin, end, start, len(part))]  # fmt: skip


def _extents(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each piece begins and ends in the text that they make."""
    extents, end = [], 0
    for piece in pieces:
        extents.append((end, end + len(piece)))
        end += len(piece)
    return extents


def _meets(begin: int, end: int, start: int, length: int) -> bool:
    return start >= 0 and begin < start + length and start < end
