"""Random streams that depend on what they are for, and on nothing else.

A stream is named by (seed, purpose, name of the parameter), hashed to the seed of a generator: neither the order in
which parameters arrive, nor batch size, nor thread count changes a number.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
from numpy.typing import NDArray


def stream(seed: int, purpose: str, *names: str | int) -> np.random.Generator:
    """The generator of the stream (seed, purpose, names)."""
    digest = hashlib.blake2b(json.dumps([seed, purpose, *names]).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def signs(generator: np.random.Generator, count: int) -> NDArray[np.int8]:
    """`count` independent fair signs, -1 or 1."""
    bits = np.frombuffer(generator.bytes(-(-count // 8)), dtype=np.uint8)
    return 2 * np.unpackbits(bits, count=count).astype(np.int8) - 1
