"""Row digests: stable, and sensitive to every byte, dtype and shape."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.tasks.digest import DIGEST_BYTES, digest
from pipeline.tasks.rows import digest as exported


@dataclass
class Record:
    x: torch.Tensor
    y: int


@dataclass
class Other:
    x: torch.Tensor
    y: int


Pair = namedtuple("Pair", "x y")


def test_the_digest_is_pinned() -> None:
    """Stores outlive versions: a change of the walk would make every row look new."""
    row = (torch.arange(6, dtype=torch.float32).reshape(2, 3), 4, {"b": "text", "a": None}, [True, 2.5, b"x"])
    assert digest(row).hex() == "24b6e281941695e67e399c870aba84e3"
    assert len(digest(row)) == DIGEST_BYTES == 16 and exported is digest


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8]
)
def test_every_byte_counts(dtype: torch.dtype) -> None:
    base = torch.arange(24).reshape(2, 3, 4).to(dtype)
    seen = {digest(base)}
    raw = base.reshape(-1).view(torch.uint8)
    for position in range(len(raw)):
        changed = raw.clone()
        changed[position] ^= 1
        seen.add(digest(changed.view(dtype).reshape(2, 3, 4)))
    assert len(seen) == len(raw) + 1


def test_dtype_and_shape_count() -> None:
    zeros = [
        torch.zeros(4, dtype=dtype) for dtype in (torch.float32, torch.int32, torch.float16, torch.bfloat16, torch.bool)
    ]
    zeros += [
        torch.zeros(2, 2),
        torch.zeros(1, 4),
        torch.zeros(4, 1),
        torch.zeros(0),
        torch.zeros(0, 3),
        torch.zeros(()),
    ]
    assert len({digest(value) for value in zeros}) == len(zeros)


def test_how_a_tensor_is_held_does_not_count() -> None:
    tensor = torch.arange(12.0).reshape(3, 4)
    same = [
        tensor.t().contiguous().t(),
        tensor.clone().requires_grad_(),
        tensor.numpy(),
        np.asfortranarray(tensor.numpy()),
    ]
    same += [tensor.numpy().astype(">f4"), tensor.to_sparse(), torch.stack([tensor, tensor])[1], (-tensor).neg()]
    assert {digest(value) for value in same} == {digest(tensor)}


def test_bfloat16_scalars_and_odd_strides() -> None:
    assert digest(torch.tensor(1.5, dtype=torch.bfloat16)) != digest(torch.tensor(1.25, dtype=torch.bfloat16))
    a = torch.arange(12).to(torch.bfloat16).reshape(3, 4)
    assert digest(a.t()) == digest(a.t().contiguous()) != digest(a)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 2), (2, 1)),
        (([1], 2), ([1, 2],)),
        (("ab", "c"), ("a", "bc")),
        (1, 1.0),
        (1, True),
        (0, None),
        ("", None),
        ("1", 1),
        ("a", b"a"),
        (0.0, -0.0),
        ({"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": 1}, [("a", 1)]),
        ((torch.zeros(2), torch.zeros(2)), (torch.zeros(4),)),
        ([], (None,)),
        (Record(torch.zeros(1), 1), Other(torch.zeros(1), 1)),
        (Record(torch.zeros(1), 1), Record(torch.zeros(1), 2)),
        (np.array(["a", "b"]), np.array(["a", "c"])),
        (np.array([1, "x"], dtype=object), np.array([1, "y"], dtype=object)),
    ],
)
def test_different_rows_differ(one: object, other: object) -> None:
    assert digest(one) != digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, "a"), [1, "a"]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (float("nan"), -float("nan")),
        (np.float32(2), np.array(2, dtype=np.float32)),
        (Pair(1, 2), (1, 2)),
        (10**30, 10**30),
    ],
)
def test_equal_content_has_one_digest(one: object, other: object) -> None:
    assert digest(one) == digest(other)


def test_pictures_are_read_as_arrays() -> None:
    from PIL import Image

    array = np.arange(16, dtype=np.uint8).reshape(4, 4)
    assert digest(Image.fromarray(array)) == digest(Image.fromarray(array.copy())) != digest(Image.fromarray(array + 1))


def test_what_has_no_bytes_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"^expected rows of tensors, .*got set; convert it in the dataset's __getitem__$"
    ):
        digest((1, {1, 2}))


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(nested, nested)
def test_digests_are_equal_exactly_when_rows_are(one: object, other: object) -> None:
    assert (digest(one) == digest(other)) == (repr(canonical(one)) == repr(canonical(other)))


def canonical(value: object) -> object:
    """The row in one spelling: keys in order; repr tells 1, 1.0 and True apart."""
    if isinstance(value, tuple):
        return tuple(canonical(item) for item in value)
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    return value
