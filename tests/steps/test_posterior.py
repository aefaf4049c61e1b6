"""Where models repeat the given labels, neighbours are looked for among the inputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipeline.core.posterior import Clean, Rows
from pipeline.steps.posterior import _by_inputs

N, M = 5, 3
ROWS = Rows(np.full((N, 2), 0.5), np.zeros(N, int), np.zeros((N, 4), np.float32), np.zeros((N, 2)))
CLEAN = Clean(np.full((M, 2), 0.5), np.zeros((M, 2)), np.zeros((M, 2)), np.zeros(M, int))


def asked(inputs: torch.Tensor, memory_mb: int = 10) -> tuple[Rows, Clean, list[str]]:
    said: list[str] = []
    job: Any = SimpleNamespace(config=SimpleNamespace(compute=SimpleNamespace(memory_mb=memory_mb)), say=said.append)
    rows: Any = SimpleNamespace(row=lambda i: (inputs[i], 0))
    return *_by_inputs(job, rows, np.array([1, 3, 4, 0, 2]), ROWS, CLEAN), said


def test_inputs_that_are_vectors_take_the_place_of_features() -> None:
    inputs = torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(0))
    rows, clean, said = asked(inputs)
    assert np.allclose(rows.features, inputs.flatten(1).numpy()[[1, 3, 4, 0, 2]])
    assert clean.features is None and rows.prior is ROWS.prior
    assert said == ["the models repeat the given labels: neighbours are those of the inputs"]


def test_words_and_inputs_that_do_not_fit_leave_the_features() -> None:
    words = torch.zeros(N, 6, dtype=torch.int64)
    assert asked(words)[:2] == (ROWS, CLEAN)
    large = torch.zeros(N, 20_000)
    rows, clean, said = asked(large, memory_mb=1)
    assert (rows, clean) == (ROWS, CLEAN)
    assert said == ["the models repeat the given labels; inputs are too large to look for neighbours among them"]
