"""Projections: from a gradient of P numbers to a code of K, one method a file; see `pipeline.core.projection.base`."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.core.projection.base import Norms, Projection, Shapes, Sketch, State
from pipeline.core.projection.dmin import DMin
from pipeline.core.projection.eigenbasis import Eigenbasis
from pipeline.core.projection.eigenfit import EigenbasisFitter
from pipeline.core.projection.fitting import Fitter, Seeded, Settings
from pipeline.core.projection.identity import Identity
from pipeline.core.projection.kronecker import Kronecker
from pipeline.core.projection.kronecker_pca import KroneckerPCA, KroneckerPCAFitter
from pipeline.core.projection.rademacher import Rademacher
from pipeline.core.projection.reflections import REFLECTORS, as_stored, turned
from pipeline.core.projection.sjlt import SJLT
from pipeline.core.projection.tensorsketch import TensorSketch
from pipeline.errors import ConfigError

__all__ = [
    "FITTED",
    "METHODS",
    "Fitter",
    "Norms",
    "Projection",
    "Settings",
    "Shapes",
    "Sketch",
    "State",
    "fitter",
    "make",
    "turned",
]

METHODS: dict[str, type[Projection]] = {
    "identity": Identity,
    "sjlt": SJLT,
    "dmin": DMin,
    "rademacher": Rademacher,
    "tensorsketch": TensorSketch,
    "kronecker": Kronecker,
    "kronecker_pca": KroneckerPCA,
    "eigenbasis": Eigenbasis,
}
FITTED: dict[str, Callable[[Shapes, int, int, Settings], Fitter]] = {
    "eigenbasis": EigenbasisFitter,
    "kronecker_pca": KroneckerPCAFitter,
}
"""Methods that need passes over a sample; a seed is enough for the others."""


def fitter(method: str, shapes: Shapes, dimension: int, seed: int, settings: Settings | None = None) -> Fitter:
    """What fits a projection; for one that a seed stands for it has no passes. Arguments and errors as in `make`."""
    if method not in FITTED:
        return Seeded(lambda: make(method, shapes, dimension, seed))
    return FITTED[method](shapes, dimension, seed, settings or Settings())


def make(method: str, shapes: Shapes, dimension: int, seed: int, state: State | None = None) -> Projection:
    """A projection from its description.

    `sjlt`, `dmin`, `rademacher` and `tensorsketch` with dimension >= P give the identity, whose `method` and
    `dimension` say so; `kronecker` gives the largest dimension that fits.

    Args:
        method: a name in `METHODS`.
        shapes: parameter -> shape, in the model's order.
        dimension: K.
        seed: of all random numbers.
        state: what `Projection.state()` gave, for one that was stored.

    Raises:
        ConfigError: an unknown method, or a dimension that does not suit it.
    """
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise ConfigError(f"expected a projection method among {known}, got {method}: mend projection.method")
    if dimension < 1:
        raise ConfigError(f"expected a projection dimension of at least 1, got {dimension}: mend projection.dimension")
    if state is None:
        return METHODS[method].build(shapes, dimension, seed)
    inner = {name: values for name, values in state.items() if name != REFLECTORS}
    return as_stored(METHODS[method].from_state(shapes, dimension, seed, inner), state)
