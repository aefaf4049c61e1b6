"""Inputs as points, tokens by the formula that the module states."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.steps.inputs import BAG, Bags, Plain, space_of, vectors

PAD, START = 0, 1
TEXTS = [[5, 6, 7, 5], [6, 7, 8], [9, 10], [5, 11, 12, 13, 12], [14], [6, 14, 15]]


def rows_of(inputs: Sequence[Any]) -> Any:
    return SimpleNamespace(row=lambda i: (inputs[i], 0))


def framed(texts: Sequence[Sequence[int]], width: int = 8) -> list[Tensor]:
    return [torch.tensor([START, *text] + [PAD] * (width - 1 - len(text))) for text in texts]


def every(inputs: Sequence[Any]) -> np.ndarray[Any, Any]:
    return np.arange(len(inputs))


def expected_cosines(texts: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
    words = sorted({word for text in texts for word in text})
    counts = np.array([[text.count(word) for word in words] for text in texts], float)
    weights = np.log1p(counts) * np.log(len(texts) / (counts > 0).sum(0))
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    return np.asarray(weights @ weights.T)


def test_a_bag_is_tf_idf_and_what_every_row_has_counts_for_nothing() -> None:
    inputs = framed(TEXTS)
    found = vectors(space_of(rows_of(inputs), every(inputs)), rows_of(inputs), every(inputs))
    assert found is not None and found.shape == (len(TEXTS), BAG) and found.dtype == np.float32
    # Among eleven words in so many places none falls on another's.
    assert np.allclose(found @ found.T, expected_cosines(TEXTS), atol=1e-6)


def test_order_and_length_of_a_sequence_do_not_matter() -> None:
    inputs = framed(TEXTS)
    longer = [value.flip(0) for value in framed(TEXTS, 20)]
    space = space_of(rows_of(inputs), every(inputs))
    first, second = (vectors(space, rows_of(own), every(own)) for own in (inputs, longer))
    assert first is not None and second is not None and not np.array_equal(inputs[0], longer[0][-8:])
    # Padding is in every row by which tokens were weighed.
    assert np.allclose(first, second, atol=1e-6)


def test_words_are_weighed_by_the_rows_that_were_looked_at_and_unknown_ones_are_left_out() -> None:
    inputs = framed(TEXTS)
    space = space_of(rows_of(inputs), np.array([0, 1]))
    found = vectors(space, rows_of(inputs), np.array([0, 2]))
    assert isinstance(space, Bags) and found is not None
    assert found[0].any() and not found[1].any()  # 9 and 10 are in neither of the two


def test_inner_products_of_hashed_bags_are_those_of_the_bags_on_average() -> None:
    generator = np.random.default_rng(0)
    texts = [generator.integers(2, 30000, 60).tolist() for _ in range(100)]
    texts = [text + texts[0][:20] for text in texts]
    inputs = framed(texts, 100)
    found = vectors(space_of(rows_of(inputs), every(inputs)), rows_of(inputs), every(inputs))
    assert found is not None
    off = (found @ found.T - expected_cosines(texts))[~np.eye(len(texts), dtype=bool)]
    assert abs(off.mean()) < 5e-4 and 0.005 < off.std() < 0.02  # 1 / sqrt(4096) = .0156 for bags of equal weights


def test_the_input_of_a_dict_is_what_comes_first_but_for_the_label() -> None:
    inputs = framed(TEXTS)
    rows: Any = SimpleNamespace(
        row=lambda i: {"labels": torch.tensor(1), "input_ids": inputs[i], "mask": inputs[i] > 0}
    )
    first, second = (vectors(space_of(each, every(inputs)), each, every(inputs)) for each in (rows, rows_of(inputs)))
    assert first is not None and second is not None and np.array_equal(first, second)


def test_a_text_is_its_words() -> None:
    texts = ["One two one.", "two THREE.", "three four five.", "five."]
    numbers = [[1, 2, 1], [2, 3], [3, 4, 5], [5]]
    found = vectors(space_of(rows_of(texts), every(texts)), rows_of(texts), every(texts))
    assert found is not None and np.allclose(found @ found.T, expected_cosines(numbers), atol=1e-6)


@pytest.mark.parametrize("kind", [torch.float64, torch.uint8, torch.bool])
def test_numbers_are_points_as_they_are(kind: torch.dtype) -> None:
    inputs = list(torch.arange(12).reshape(3, 2, 2).remainder(2).to(kind))
    space = space_of(rows_of(inputs), every(inputs))
    found = vectors(space, rows_of(inputs), np.array([2, 0]))
    assert isinstance(space, Plain) and space.width == 4 and found is not None
    assert np.array_equal(found, np.stack([inputs[i].double().flatten().numpy() for i in (2, 0)]))


def test_a_text_without_a_word_is_at_the_origin_and_what_is_no_text_is_no_number() -> None:
    texts = ["one two", "", "two three", torch.zeros(2), None]
    space = space_of(rows_of(texts), every(texts))
    assert isinstance(space, Bags) and space.points([]).shape == (0, BAG)
    found = space.points(texts)
    assert not found[1].any() and np.isnan(found[3:]).all() and np.isfinite(found[:3]).all()
    assert vectors(space, rows_of(texts), every(texts)) is None


@pytest.mark.parametrize(
    "inputs",
    [
        [],
        [1, 2],
        [torch.zeros(2, dtype=torch.complex64)] * 2,
        [torch.zeros(2), torch.zeros(3)],
        [torch.zeros(2), torch.tensor([0.0, float("nan")])],
        [torch.zeros(2), "text"],
        ["text", torch.zeros(2)],
        [torch.ones(2, dtype=torch.int64), torch.zeros(2)],
    ],
)
def test_what_is_no_point_has_no_vectors(inputs: list[Any]) -> None:
    assert vectors(space_of(rows_of(inputs), every(inputs)), rows_of(inputs), every(inputs)) is None
