"""The block-diagonal second step against one dense matrix, and what its stored state is checked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.core.projection.blockdiagonal import BlockDiagonal
from pipeline.errors import ConfigError


@pytest.fixture
def blocks() -> BlockDiagonal:
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 2), (2, 2), (2, 0)]
    components = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
    return BlockDiagonal(torch.tensor([1, 4, 6, 0, 2, 3, 5]), components)


def test_codes_are_the_product_with_the_dense_matrix(blocks: BlockDiagonal) -> None:
    dense = torch.zeros(7, 4, dtype=torch.float64)
    dense[[1, 4, 6], 0:2] = blocks.components[0]
    dense[[0, 2], 2:4] = blocks.components[1]
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(blocks.codes(values), values @ dense)
    assert (blocks.selected, blocks.dimension) == (7, 4)
    placed = blocks.to(torch.float32, torch.device("cpu")).codes(values.float())
    assert placed.dtype == torch.float32
    torch.testing.assert_close(placed, (values @ dense).float())


def test_a_stored_state_gives_it_back(blocks: BlockDiagonal) -> None:
    values = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    again = BlockDiagonal.from_state({"other": np.zeros(3), **blocks.state()})
    assert again is not None and torch.equal(again.codes(values), blocks.codes(values))
    assert BlockDiagonal.from_state({"other": np.zeros(3)}) is None


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("order", None, "expected a second step with order, .* got no order: fit it anew"),
        ("order", np.arange(6), "expected groups of 6 coordinates and 10 numbers of components, got 3 sizes with the sum 7"),
        ("group_sizes", np.array([3, 4]), "got 2 sizes with the sum 7 and 3 component counts: .* fit it anew"),
        ("group_sizes", np.array([3, 3, 2]), "got 3 sizes with the sum 8"),
        ("component_counts", np.array([2, 1, 0]), "and 10 numbers of components"),
        ("components", np.zeros(9), "and 9 numbers of components"),
        ("order", np.array([1, 4, 6, 0, 2, 3, 3]), "expected every one of 7 coordinates in one group, ascending"),
        ("order", np.array([1, 4, 6, 0, 2, 3, 7]), "expected every one of 7 coordinates in one group, ascending"),
        ("order", np.array([4, 1, 6, 0, 2, 3, 5]), "expected every one of 7 coordinates in one group, ascending"),
    ],
)  # fmt: skip
def test_a_damaged_state_is_refused(blocks: BlockDiagonal, name: str, array: np.ndarray | None, message: str) -> None:
    state = {**blocks.state(), name: array}
    with pytest.raises(ConfigError, match=message):
        BlockDiagonal.from_state({key: values for key, values in state.items() if values is not None})
