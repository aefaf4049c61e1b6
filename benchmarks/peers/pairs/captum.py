"""captum: TracInCP of the last checkpoint, by gradients of all parameters."""

from __future__ import annotations

from collections.abc import Iterator

from captum.influence import TracInCP
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from benchmarks.peers.pairs import Question

BATCH = 100


def tracin(asked: Question) -> Iterator[tuple[str, Tensor]]:
    """Inner products of gradients."""
    tracer = TracInCP(
        asked.model, TensorDataset(*asked.train), [""], lambda model, path: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"), batch_size=BATCH, sample_wise_grads_per_batch=True,
    )  # fmt: skip
    yield "", tracer.influence(asked.query)


METHODS = {"TracIn": tracin}
