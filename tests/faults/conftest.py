"""Places that fail: a small disk, a store that cannot be written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.workflow.conftest import one_thread, project

__all__ = ["one_thread", "project"]

Mount = Callable[..., Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mounts something below the test's directory, and unmounts it after the test."""
    places: list[Path] = []

    def at(name: str, *options: str) -> Path:
        place = tmp_path / name
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
        if done.returncode:
            if os.environ.get("LOWLAND_CI"):
                pytest.fail(f"expected the right to mount, as .ci/run runs all tests, got: {done.stderr}")
            pytest.skip(f"needs the right to mount: {done.stderr.strip()}")
        places.append(place)
        return place

    yield at
    for place in reversed(places):
        with suppress(OSError):
            subprocess.run(["umount", "--lazy", str(place)], check=False)
