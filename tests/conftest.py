"""What all tests share: one thread, the same examples of hypothesis every time, and a seeded generator."""

from __future__ import annotations

import os

# Before numpy, torch and faiss are loaded: the problems here are so small that threads only wait for one another.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import numpy as np
import pytest
from hypothesis import settings

try:
    import torch
except ImportError:  # what answers from the store is tested without torch, too
    pass
else:
    torch.set_num_threads(1)

settings.register_profile("lowland", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("lowland")


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a fixed seed, new for each test."""
    return np.random.default_rng(20260101)
