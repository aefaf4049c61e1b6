"""dattri-llm: hooks that project both factors of a layer's gradient (its "logra" style) and multiply them out.

The hook that skips the weights' own gradients is taken where there is one (`invasive_linear_io`, linear layers), and
norm layers are left out, which "logra" does not take.
"""

from __future__ import annotations

from typing import Any

from dattri_llm import HookManager, HookManagerConfig
from torch import nn

from benchmarks.models import Case, loss
from benchmarks.peers.shapes import layers, side, without
from benchmarks.timing import Work, repeated


def logra(case: Case, size: int) -> Work:
    """Double-sided random projection of each layer."""
    linear = layers(case.model, nn.Linear)
    covered = linear | layers(case.model, nn.Conv2d, nn.Embedding)
    width = side(size, len(covered))
    config = HookManagerConfig(
        hook_types={name: "invasive_linear_io" if name in linear else "linear_io" for name in covered},
        capture_style="materialized",
        projection_kwargs={"__default__": {"style": "logra", "proj_dim": width, "proj_max_batch_size": case.rows}},
    )
    manager = HookManager(case.model, config=config)

    def step() -> Any:
        case.model.zero_grad(set_to_none=True)
        with manager.collect():
            loss(case.model, case.batch).sum().backward()
        return manager.get_gradient()

    return Work("hooks, LoGra, materialised", len(covered) * width**2, repeated(step), without(case.model, covered))


METHODS = {"hooks, LoGra, materialised": logra}
