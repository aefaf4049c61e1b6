"""What went wrong in the user's own code, in one line: kind, text, file and line.

The user's mistake is the last frame of the traceback that lies in the user's file; the frames below it are of torch or
numpy and say less.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path


def blame(error: BaseException, *files: Path | str) -> str:
    """One line about an exception.

    Args:
        error: what was raised.
        files: the files to look for in the traceback, the first that occurs wins; none of them there: the last frame.

    Returns:
        For example "ValueError: no such column (my_task.py, line 12)".
    """
    text = " ".join(str(error).split()) if not isinstance(error, SyntaxError) else error.msg
    kind = type(error).__name__
    return f"{kind}{f': {_short(text)}' if text else ''}{_place(error, [str(file) for file in files])}"


def file_of(thing: object) -> str:
    """The file that defines the class of `thing`, or "" where there is none."""
    module = sys.modules.get(type(thing).__module__)
    return str(getattr(module, "__file__", None) or "")


def _short(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _place(error: BaseException, files: list[str]) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    for file in files:
        own = [frame for frame in frames if file and frame.filename == file]
        if own:
            return f" ({Path(file).name}, line {own[-1].lineno})"
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
