"""Inputs are asked for where they are points."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from pipeline.core.posterior import Clean, Rows
from pipeline.steps.inputs import BAG, Plain, Points
from pipeline.steps.posterior import WIDEST, _with_inputs

N, M = 5, 3
ROWS = Rows(np.full((N, 2), 0.5), np.zeros((N, 2)), np.zeros(N, int), np.zeros((N, 4), np.float32))
CLEAN = Clean(np.full((M, 2), 0.5), np.zeros((M, 2)), np.zeros(M, int), np.zeros((M, 4)))
ORDER = [2, 0, 1]


def asked(inputs: torch.Tensor, clean: torch.Tensor | None = None) -> tuple[Rows, Clean]:
    rows: Any = SimpleNamespace(row=lambda i: (inputs[i], 0))
    others = inputs[:M] if clean is None else clean
    validation: Any = SimpleNamespace(row=lambda i: (others[i], 0))
    return _with_inputs(rows, np.array([1, 3, 4, 0, 2]), validation, ORDER, ROWS, CLEAN)


def test_inputs_that_are_points_stand_beside_features() -> None:
    inputs = torch.randn(N, 2, 3, generator=torch.Generator().manual_seed(0))
    rows, clean = asked(inputs)
    assert rows.inputs is not None and clean.inputs is not None
    expected = inputs.flatten(1).numpy()
    assert np.array_equal(rows.inputs[1:4], expected[[3, 4, 0]])
    assert np.array_equal(rows.inputs[np.array([4, 0])], expected[[2, 1]])
    assert np.array_equal(clean.inputs[:], expected[ORDER]) and len(rows.inputs) == N
    assert rows.features is ROWS.features and clean.features is CLEAN.features


def test_sequences_of_tokens_are_points_and_the_clean_ones_of_another_length_too() -> None:
    tokens = torch.tensor([[1, 2, 0], [1, 3, 0], [1, 2, 3], [4, 4, 0], [5, 6, 7]])
    rows, clean = asked(tokens, torch.tensor([[0, 2, 1, 9], [8, 9, 8, 9], [3, 2, 1, 8]]))  # 8 and 9 are in no train row
    assert rows.inputs is not None and clean.inputs is not None and rows.inputs[:].shape == (N, BAG)
    found, asked_of = rows.inputs[:], clean.inputs[:]  # train rows 1, 3, 4, 0, 2; clean ones 2, 0, 1
    assert np.allclose(asked_of[0], found[4]) and np.allclose(asked_of[1], found[3]) and not asked_of[2].any()


def test_inputs_that_are_not_finite_are_handed_on_to_be_told() -> None:
    rows, clean = asked(torch.zeros(N, 6), torch.full((M, 6), torch.nan))
    assert rows.inputs is not None and clean.inputs is not None and np.isnan(clean.inputs[:]).all()


def test_clean_inputs_that_are_no_sequences_beside_sequences_are_none() -> None:
    assert asked(torch.ones(N, 6, dtype=torch.int64), torch.zeros(M, 6)) == (ROWS, CLEAN)


def test_wide_inputs_and_other_shapes_are_none() -> None:
    assert asked(torch.zeros(N, WIDEST + 1)) == (ROWS, CLEAN)
    assert asked(torch.zeros(N, 6), torch.zeros(M, 7)) == (ROWS, CLEAN)


def test_a_row_of_another_size_is_no_number() -> None:
    ragged: Any = SimpleNamespace(row=lambda i: (torch.zeros(6 if i else 5), 0))
    found = Points(Plain(6), ragged, np.array([1, 0, 2]))[:]
    assert np.isnan(found[1]).all() and not found[[0, 2]].any()
