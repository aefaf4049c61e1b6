"""A block-diagonal matrix with orthonormal columns: the second step of `eigenbasis`, from K1 coordinates to K.

The coordinates are cut into groups; those of group g are multiplied with a matrix of their own, [K1_g, k_g], and the
results stand one after the other. With G groups of equal size that is K1 K / G multiplications a row; one group is the
dense matrix. The fitting is in `grouping`. Letters: B rows, K1 coordinates, K compressed size, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.projection.base import State
from pipeline.errors import ConfigError

ARRAYS = ("order", "group_sizes", "component_counts", "components")


@dataclass(frozen=True)
class BlockDiagonal:
    """The groups and their matrices.

    Attributes:
        order: the coordinates, group after group and ascending in each, [K1] int64.
        components: the matrix of each group, [K1_g, k_g]; k_g may be zero.
    """

    order: Tensor
    components: Sequence[Tensor]

    @classmethod
    def from_state(cls, state: State) -> BlockDiagonal | None:
        """What `state()` gave, found among other arrays; None where nothing of it is there.

        Raises:
            ConfigError: arrays are missing or do not fit one another.
        """
        missing = [name for name in ARRAYS if name not in state]
        if len(missing) == len(ARRAYS):
            return None
        if missing:
            raise ConfigError(f"expected a second step with {', '.join(ARRAYS)}, got no {missing[0]}: fit it anew")
        order, sizes, counts, flat = (np.asarray(state[name]) for name in ARRAYS)
        _check(order, sizes, counts, len(flat))
        matrices = torch.from_numpy(flat).split((sizes * counts).tolist())
        shapes = zip(sizes.tolist(), counts.tolist(), strict=True)
        components = [own.reshape(shape) for own, shape in zip(matrices, shapes, strict=True)]
        return cls(torch.from_numpy(order.astype(np.int64)), components)

    def state(self) -> dict[str, NDArray[Any]]:
        """What it is made of.

        Returns:
            order: the coordinates, group after group, [K1].
            group_sizes: K1_g, [G].
            component_counts: k_g, [G].
            components: the matrices, flattened, one after the other.
        """
        return {
            "order": self.order.numpy(),
            "group_sizes": np.array([len(matrix) for matrix in self.components]),
            "component_counts": np.array([matrix.shape[1] for matrix in self.components]),
            "components": torch.cat([matrix.flatten() for matrix in self.components]).numpy(),
        }

    @property
    def selected(self) -> int:
        """K1."""
        return len(self.order)

    @property
    def dimension(self) -> int:
        """K."""
        return sum(matrix.shape[1] for matrix in self.components)

    def to(self, dtype: torch.dtype, device: torch.device) -> BlockDiagonal:
        """The same in a dtype, on a device."""
        # Contiguous when transposed, which is how they are multiplied with.
        components = [matrix.to(device, dtype).T.contiguous().T for matrix in self.components]
        return BlockDiagonal(self.order.to(device), components)

    def codes(self, values: Tensor) -> Tensor:
        """Rows [B, K1] as [B, K], group after group; both best contiguous when transposed, as what comes back is."""
        columns = values.T
        if len(self.components) == 1:  # all coordinates in their order
            return (self.components[0].T @ columns).T
        groups = self.order.split([len(matrix) for matrix in self.components])
        # Group by group, so that what was picked is still in the cache; each in its place, so that nothing is joined.
        found = columns.new_empty(self.dimension, columns.shape[1])
        places = found.split([matrix.shape[1] for matrix in self.components])
        for own, matrix, place in zip(groups, self.components, places, strict=True):
            torch.mm(matrix.T, columns.index_select(0, own), out=place)
        return found.T


def _check(order: NDArray[Any], sizes: NDArray[Any], counts: NDArray[Any], numbers: int) -> None:
    if len(sizes) != len(counts) or int(sizes.sum()) != len(order) or int((sizes * counts).sum()) != numbers:
        raise ConfigError(
            f"expected groups of {len(order)} coordinates and {numbers} numbers of components, got {len(sizes)} sizes "
            f"with the sum {sizes.sum()} and {len(counts)} component counts: the state is damaged, fit it anew"
        )
    starts = np.cumsum(sizes)[:-1]
    ascending = all((np.diff(own) > 0).all() for own in np.split(order, starts))
    if not ascending or not np.array_equal(np.sort(order), np.arange(len(order))):
        raise ConfigError(
            f"expected every one of {len(order)} coordinates in one group, ascending, got others: the state is "
            "damaged, fit it anew"
        )
