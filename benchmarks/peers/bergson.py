"""bergson: hooks that project both factors of a layer's gradient (Rademacher) and multiply them out.

Its hooks take inputs [B, T, D] alone: an MLP gets them with T = 1; a convolution's are refused. Biases are left out,
its default.
"""

from __future__ import annotations

from typing import Any

import torch
from bergson.collector.gradient_collectors import TraceCollector
from bergson.gradients import GradientProcessor, LayerAdapter

from benchmarks.models import Case, loss, losses
from benchmarks.peers.shapes import layers, side, without
from benchmarks.timing import Work, repeated


def collector(case: Case, size: int) -> Work:
    """Double-sided random projection of each layer, as a query's gradients are collected."""
    covered = layers(case.model, *LayerAdapter.supported_modules)
    width = side(size, len(covered))
    processor = GradientProcessor(projection_dim=width)
    inputs, labels = case.batch
    flat = inputs.dim() == 2 and inputs.is_floating_point()
    collected = TraceCollector(model=case.model, processor=processor, device="cpu", dtype=torch.float32)
    collected.__enter__()  # the hooks stay: the process ends with the measurement

    def step() -> Any:
        case.model.zero_grad(set_to_none=True)
        collected.mod_grads.clear()
        each = losses(case.model(inputs[:, None])[:, 0], labels) if flat else loss(case.model, case.batch)
        each.sum().backward()
        return collected.mod_grads

    step()  # here it fails where it must
    parts = ("inputs as [B, 1, D]" if flat else "", "no biases", without(case.model, covered))
    return Work("TraceCollector", len(covered) * width**2, repeated(step), "; ".join(filter(None, parts)))


METHODS = {"TraceCollector": collector}
