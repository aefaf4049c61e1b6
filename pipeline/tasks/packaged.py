"""Where an installed package keeps its files, without importing it: only the data of a few packages are wanted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from pipeline.errors import DataError


def file_in_package(package: str, inside: str, requirement: str) -> Path:
    """The path of the file or directory `inside` the installed `package`.

    Raises:
        DataError: the package is not installed, or holds no such file; the message says what to install.
    """
    spec = importlib.util.find_spec(package)
    advice = f"pip install {requirement}, or name the data in task.options.path"
    if spec is None or not spec.submodule_search_locations:
        raise DataError(f"expected the package {package}, found none; {advice}")
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise DataError(f"expected {inside} in the package {package}, found none; {advice}")
    return path
