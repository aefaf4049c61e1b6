"""Kronecker-factored projection whose factors are principal components (LoGra: Choe et al. 2024, arXiv 2405.13954).

A matrix parameter's gradient G = sum_t o_t i_t^T becomes Q_o^T G Q_i, with Q_o [O, r_o] and Q_i [I, r_i] the leading
eigenvectors of the second moments of its sides, fitted in one pass over a sample (`moments`). As in `kronecker`,
r_o = min(r, O) and r_i = min(r, I) with the largest r for which all codes together are within the dimension asked for.
Every parameter thus has its square of coordinates, whatever energy it holds: the difference to `eigenbasis`, whose
sketch this shares.

The map has orthonormal rows: inner products have no variance, and lose what lies outside of the bases. Norms are exact,
or estimated as in `norms`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.projection.base import Norms, Projection, Shapes, Sketch, State
from pipeline.core.projection.eigenbasis import Eigenbasis, Part
from pipeline.core.projection.fitting import Settings
from pipeline.core.projection.kronecker import rank_within
from pipeline.core.projection.moments import Moments
from pipeline.core.projection.stages import Stage, StagedFitter
from pipeline.errors import ConfigError


class KroneckerPCA(Projection):
    """Whole squares of coordinates in eigenbases; see the module."""

    method = "kronecker_pca"

    def __init__(self, shapes: Shapes, grids: Projection) -> None:
        """Keep what was fitted: the eigenbasis projection that selects all coordinates of its bases."""
        super().__init__(shapes, grids.dimension)
        self._grids = grids

    @classmethod
    def build(cls, shapes: Shapes, dimension: int, seed: int) -> Projection:
        """There is none without a sample.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "expected a fitted state for a kronecker_pca projection, got none: fit it on a sample of rows"
        )

    @classmethod
    def from_state(cls, shapes: Shapes, dimension: int, seed: int, state: State) -> Projection:
        """The projection whose `state()` was stored.

        Raises:
            ConfigError: the state is not one of these parameters.
        """
        missing = [name for name in ("ranks", "bases") if name not in state]
        if missing:
            raise ConfigError(
                f"expected a fitted state for a kronecker_pca projection, got no {', '.join(missing)}: fit it anew"
            )
        ranks = np.asarray(state["ranks"]).tolist()
        places = [F.pad(_coordinates(*own).T, (1, 0), value=index) for index, own in enumerate(ranks)]
        whole = {**state, "coordinates": torch.cat(places).numpy()}
        return cls(shapes, Eigenbasis.from_state(shapes, dimension, seed, whole))

    def state(self) -> dict[str, NDArray[Any]]:
        """What was fitted.

        Returns:
            ranks: r_o and r_i of each parameter, [parameters, 2].
            bases: Q_o and Q_i of all parameters, flattened, one after the other.
        """
        state = self._grids.state()
        return {name: state[name] for name in ("ranks", "bases")}

    def sketch(
        self,
        rows: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        norms: Norms = "exact",
    ) -> Sketch:
        """An empty sketch; see the base."""
        return self._grids.sketch(rows, dtype, device, norms)


class KroneckerPCAFitter(StagedFitter):
    """Fits a `KroneckerPCA` in one pass."""

    def __init__(self, shapes: Shapes, dimension: int, seed: int, settings: Settings) -> None:
        """Plan the pass.

        Args:
            shapes: parameter -> shape.
            dimension: K; r is what fits into it.
            seed: of the sketches of long sides.
            settings: not looked at.

        Raises:
            ConfigError: the dimension is below one number a parameter.
        """
        self._shapes = {name: tuple(shape) for name, shape in shapes.items()}
        self._rank = rank_within(self._shapes, dimension, "kronecker_pca")
        super().__init__(Moments(self._shapes, self._rank, seed))

    @property
    def chosen(self) -> dict[str, Any]:
        """See the base: r."""
        return {"basis": [self._rank]}

    def _after(self, stage: Stage) -> Stage | Projection:
        assert isinstance(stage, Moments)
        parts = {name: _whole(*bases) for name, bases in stage.bases().items()}
        return KroneckerPCA(self._shapes, Eigenbasis(self._shapes, parts))


def _whole(output: Tensor, input: Tensor) -> Part:
    return Part(output, input, *_coordinates(output.shape[1], input.shape[1]))


def _coordinates(outputs: int, inputs: int) -> Tensor:
    """All coordinates (a, b) of bases of so many columns, row after row: [2, r_o r_i]."""
    return torch.cartesian_prod(torch.arange(outputs), torch.arange(inputs)).T
