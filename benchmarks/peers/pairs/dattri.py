"""dattri: influence by conjugate gradients, DataInf and EK-FAC; TracIn; TRAK of one model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import torch
from dattri.algorithm.influence_function import (
    IFAttributorCG,
    IFAttributorDataInf,
    IFAttributorEKFAC,
)
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.peers.pairs import Question, Split

BATCH = 250
OF_HESSIAN, OF_KERNEL, OF_FACTORS = (0.0, 1e-2, 1e-1), (0.0, 1e-2, 1e-1, 1.0), (0.0, 1e-7, 1e-5, 1e-3)
"""Dampings; its own default is none. The Fisher matrix of EK-FAC is that of the mean loss of a batch."""

DIMENSIONS = (512, 2048, 128)
"""Of TRAK's projection, its own default first."""

Scored = Callable[[Question], Iterator[tuple[str, Tensor]]]
Of = Callable[[dict[str, Tensor], Sequence[Tensor]], Tensor]


def loader(split: Split) -> DataLoader[tuple[Tensor, ...]]:
    """Rows in their order."""
    return DataLoader(TensorDataset(*split), batch_size=BATCH)


def loss_of(asked: Question, rowwise: bool = False) -> Of:
    """The mean loss of a batch, or of a row without the batch's dimension."""

    def loss(parameters: dict[str, Tensor], batch: Sequence[Tensor]) -> Tensor:
        inputs, labels = (part.unsqueeze(0) for part in batch) if rowwise else batch
        return cross_entropy(torch.func.functional_call(asked.model, parameters, inputs), labels)

    return loss


def damped(kind: Callable[..., Any], name: str, dampings: Sequence[float]) -> Scored:
    """A kind of influence under several dampings."""

    def scored(asked: Question) -> Iterator[tuple[str, Tensor]]:
        for damping in dampings:
            task = AttributionTask(loss_of(asked), asked.model, asked.model.state_dict())
            attributor = kind(task=task, device="cpu", **{name: damping})
            attributor.cache(loader(asked.train))
            yield f"damping {damping:g}", attributor.attribute(loader(asked.train), loader(asked.query)).T

    return scored


def tracin(asked: Question) -> Iterator[tuple[str, Tensor]]:
    """Of the last checkpoint."""
    task = AttributionTask(loss_of(asked, rowwise=True), asked.model, asked.model.state_dict())
    attributor = TracInAttributor(task, torch.ones(1), normalized_grad=False)
    yield "", attributor.attribute(loader(asked.train), loader(asked.query)).T


def trak(asked: Question) -> Iterator[tuple[str, Tensor]]:
    """Of one model, in several numbers of dimensions."""
    loss = loss_of(asked, rowwise=True)

    def probability(parameters: dict[str, Tensor], batch: Sequence[Tensor]) -> Tensor:
        return torch.exp(-loss(parameters, batch))

    def margin(parameters: dict[str, Tensor], batch: Sequence[Tensor]) -> Tensor:
        p = probability(parameters, batch)
        return torch.log(p) - torch.log1p(-p.clamp(max=1 - 1e-6))

    task = AttributionTask(margin, asked.model, asked.model.state_dict())
    for dimension, damping in product(DIMENSIONS, OF_KERNEL):
        attributor = TRAKAttributor(
            task, probability, projector_kwargs={"proj_dim": dimension}, device="cpu", regularization=damping
        )
        attributor.cache(loader(asked.train))
        yield f"{dimension} dimensions, damping {damping:g}", attributor.attribute(loader(asked.query)).T


METHODS: dict[str, Scored] = {
    "influence, CG": damped(IFAttributorCG, "regularization", OF_HESSIAN),
    "DataInf": damped(IFAttributorDataInf, "regularization", OF_HESSIAN),
    "influence, EK-FAC": damped(IFAttributorEKFAC, "damping", OF_FACTORS),
    "TracIn": tracin,
    "TRAK": trak,
}
