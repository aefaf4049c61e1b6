"""captum: TracInCP's per-sample gradients by hooks, uncompressed; and TracInCPFastRandProj, of the last layer only.

It compresses nothing but the last layer's gradients, by a random projection of both factors.
"""

from __future__ import annotations

from typing import Any

from captum._utils.gradient import _compute_jacobian_wrt_params_with_sample_wise_trick
from captum.influence import TracInCPFastRandProj
from captum.influence._utils.nearest_neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.models import Case, losses
from benchmarks.peers.shapes import layers, without
from benchmarks.timing import Work, repeated


class Summed(nn.Module):
    """The summed loss."""

    reduction = "sum"

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Of a batch."""
        return losses(logits, labels).sum()


def sample_wise(case: Case, size: int) -> Work:
    """What TracInCP computes for a batch with `sample_wise_grads_per_batch=True`."""
    covered = layers(case.model, nn.Linear, nn.Conv2d)
    modules = list(covered.values())

    def step() -> Any:
        return _compute_jacobian_wrt_params_with_sample_wise_trick(
            case.model, case.batch[:1], case.batch[1], Summed(), "sum", modules
        )

    note = "; ".join(filter(None, ("no compression", without(case.model, covered))))
    numbers = sum(value.numel() for module in modules for value in module.parameters())
    return Work("TracInCP, sample-wise", numbers, repeated(step), note)


class Unindexed(NearestNeighbors):
    """No index: captum's own wants another library, and none is asked for neighbours here."""

    def setup(self, data: Tensor) -> None:
        """Nothing."""

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Never asked for."""
        raise NotImplementedError


def last_layer(case: Case, size: int) -> Work:
    """Projected gradients of the last layer's weight."""
    *_, last = layers(case.model, nn.Linear).values()
    tracer = TracInCPFastRandProj(
        case.model, last, TensorDataset(*case.batch), [""], lambda model, path: 1.0, loss_fn=Summed(),
        batch_size=case.rows, projection_dim=size, nearest_neighbors=Unindexed(),
    )  # fmt: skip

    def step() -> Tensor:
        return tracer.compute_intermediate_quantities(case.batch)

    return Work("TracInCPFastRandProj", step().shape[1], repeated(step), "of the last layer only")


METHODS = {"TracInCP, sample-wise": sample_wise, "TracInCPFastRandProj": last_layer}
