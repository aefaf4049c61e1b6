"""What workers of a cluster compute in tests: they import it by name, so it is on their path."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np


def slow(item: dict) -> np.ndarray:
    """The item's values, after a while; a file for each call says that it began."""
    if "begun" in item:
        (Path(item["begun"]) / f"{item['name']}-{os.getpid()}-{time.monotonic_ns()}").touch()
    time.sleep(item.get("seconds", 0))
    return item["values"]


def deadly(item: dict) -> None:
    """End the worker's process as the kernel does when memory is out."""
    os.kill(os.getpid(), 9)


def scaled(item: float, factor: float) -> float:
    """The product with what is shared."""
    return item * factor


def missing(item: str) -> None:
    """What a damaged store raises."""
    from pipeline.errors import StoreError

    raise StoreError(f"expected {item}")
