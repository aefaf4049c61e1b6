"""Inputs are asked for where they are points that fit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipeline.core.posterior import Clean, Rows
from pipeline.steps.posterior import WIDEST, _with_inputs

N, M = 5, 3
ROWS = Rows(np.full((N, 2), 0.5), np.zeros((N, 2)), np.zeros(N, int), np.zeros((N, 4), np.float32))
CLEAN = Clean(np.full((M, 2), 0.5), np.zeros((M, 2)), np.zeros(M, int), np.zeros((M, 4)))
ORDER = [2, 0, 1]


def asked(
    inputs: torch.Tensor, clean: torch.Tensor | None = None, memory_mb: int = 10
) -> tuple[Rows, Clean, list[str]]:
    said: list[str] = []
    job: Any = SimpleNamespace(config=SimpleNamespace(compute=SimpleNamespace(memory_mb=memory_mb)), say=said.append)
    rows: Any = SimpleNamespace(row=lambda i: (inputs[i], 0))
    others = inputs[:M] if clean is None else clean
    validation: Any = SimpleNamespace(row=lambda i: (others[i], 0))
    return *_with_inputs(job, rows, np.array([1, 3, 4, 0, 2]), validation, ORDER, ROWS, CLEAN), said


def test_inputs_that_are_points_stand_beside_features() -> None:
    inputs = torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(0))
    rows, clean, said = asked(inputs)
    assert rows.inputs is not None and clean.inputs is not None
    assert np.allclose(rows.inputs, inputs.flatten(1).numpy()[[1, 3, 4, 0, 2]])
    assert np.allclose(clean.inputs, inputs.flatten(1).numpy()[ORDER])
    assert rows.features is ROWS.features and clean.features is CLEAN.features and not said


def test_words_wide_inputs_and_other_shapes_are_none() -> None:
    assert asked(torch.zeros(N, 6, dtype=torch.int64))[:2] == (ROWS, CLEAN)
    assert asked(torch.zeros(N, WIDEST + 1))[:2] == (ROWS, CLEAN)
    assert asked(torch.zeros(N, 6), torch.zeros(M, 7))[:2] == (ROWS, CLEAN)


def test_clean_inputs_that_are_no_numbers_leave_the_features() -> None:
    assert asked(torch.zeros(N, 6), torch.full((M, 6), torch.nan))[:2] == (ROWS, CLEAN)


def test_inputs_that_do_not_fit_are_told() -> None:
    rows, clean, said = asked(torch.zeros(N, WIDEST), memory_mb=0)
    assert (rows, clean) == (ROWS, CLEAN)
    assert said == ["inputs are too large for compute.memory_mb: other rows are asked by the model's features alone"]
