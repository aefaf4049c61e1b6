"""dattri: LoGra by wrapped linear layers, and per-sample gradients by vmap with a random projection.

LoGra runs as its attributor's `cache` does a batch, without what that does around it: `offload="disk"` wants pinned
memory and fails on a CPU. The projections of whole gradients that dattri has on a CPU are dense ones, which it draws
anew in blocks for every batch, and a random mask (K coordinates are kept), the cheapest one, which is taken here.
"""

from __future__ import annotations

from typing import Any

import torch
from dattri.algorithm.block_projected_if.core.compressor import setup_model_compressors
from dattri.algorithm.block_projected_if.core.hook import HookManager
from dattri.func.projection import random_project
from dattri.task import AttributionTask
from torch import Tensor, nn

from benchmarks.models import Case, loss, losses
from benchmarks.peers.shapes import layers, side, without
from benchmarks.timing import Work, repeated


def logra(case: Case, size: int) -> Work:
    """Double-sided Gaussian projection of each linear layer."""
    covered = layers(case.model, nn.Linear)
    width = side(size, len(covered))
    both = {"device": "cpu", "proj_max_batch_size": 64}
    compressors = setup_model_compressors(
        case.model, list(covered), sample_inputs=case.batch,
        sparsifier_kwargs={**both, "proj_dim": width, "proj_type": "normal"},
        projector_kwargs={**both, "proj_dim": -1, "proj_type": "identity"},
    )  # fmt: skip
    hooks = HookManager(case.model, list(covered), device="cpu")
    hooks.set_compressors(compressors)

    def step() -> Any:
        case.model.zero_grad(set_to_none=True)
        loss(case.model, case.batch).sum().backward()
        return torch.cat(hooks.get_compressed_grads(), 1)

    return Work("LoGra", step().shape[1], repeated(step), without(case.model, covered))


def vmap(case: Case, size: int) -> Work:
    """Gradients of all parameters by `torch.func`, projected as TracInAttributor does it."""

    def of_row(parameters: dict[str, Tensor], row: tuple[Tensor, Tensor]) -> Tensor:
        logits = torch.func.functional_call(case.model, parameters, row[0].unsqueeze(0))
        return losses(logits, row[1].unsqueeze(0)).sum()

    task = AttributionTask(of_row, case.model, case.model.state_dict())
    gradients = task.get_grad_loss_func(in_dims=(None, 0))
    parameters, _ = task.get_param(ckpt_idx=0)

    def step() -> Tensor:
        found = gradients(parameters, case.batch)
        project = random_project(
            found, case.rows, proj_dim=size, proj_max_batch_size=16, proj_type="random_mask", device="cpu"
        )
        return project(torch.nan_to_num(found), ensemble_id=0)

    return Work("vmap, random mask", step().shape[1], repeated(step))


METHODS = {"LoGra": logra, "vmap, random mask": vmap}
