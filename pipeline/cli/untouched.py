"""Looking at what a run would do, and leaving it as it was."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError
from pipeline.storage.layout import Layout


class UnplannedError(InputError):
    """The plan could not be made; no job has run."""


@contextmanager
def given_back(directory: Path, always: bool) -> Iterator[None]:
    """Put configuration and plan back as they were, after a dry run and wherever the run ends before its first job."""
    own, prepared = directory / "config.yaml", Layout(directory).plan.parent
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch)
        if own.is_file():
            shutil.copy2(own, kept / "config.yaml")
        if prepared.is_dir():
            shutil.copytree(prepared, kept / "prepare")
        try:
            yield
        except (SystemExit, UnplannedError):
            always = True
            raise
        finally:
            if always:
                _put_back(kept, own, prepared)


def _put_back(kept: Path, own: Path, prepared: Path) -> None:
    shutil.rmtree(prepared, ignore_errors=True)
    own.unlink(missing_ok=True)
    if (kept / "prepare").is_dir():
        shutil.copytree(kept / "prepare", prepared)
    if (kept / "config.yaml").is_file():
        shutil.copy2(kept / "config.yaml", own)
