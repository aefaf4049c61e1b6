"""traker: `TRAKer.featurize` with `BasicProjector`, the one projector that it has for a CPU.

Gradients of all parameters by `torch.func`; the dense projection is drawn anew, 100 of its K columns at a time, for
every batch. The output that gradients are taken of is the loss, so that all engines capture the same rows.
"""

from __future__ import annotations

import logging
import tempfile

import torch
from torch import Tensor, nn
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput

from benchmarks.models import Case, losses
from benchmarks.timing import Work

BATCHES = 1000


class Loss(AbstractModelOutput):
    """The loss as TRAK's model output."""

    def __init__(self) -> None:
        pass

    @staticmethod
    def get_output(
        model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor
    ) -> Tensor:
        """The loss of one row."""
        logits = torch.func.functional_call(model, (weights, buffers), inputs.unsqueeze(0))
        return losses(logits, labels.unsqueeze(0)).sum()

    def get_out_to_loss_grad(
        self, model: nn.Module, weights: dict[str, Tensor], buffers: dict[str, Tensor], batch: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One, since the output is the loss."""
        return torch.ones(len(batch[0]), 1)


def featurize(case: Case, size: int) -> Work:
    """Features of the batch, each time as those of further rows: rows that are done would be skipped."""
    tracer = TRAKer(
        model=case.model, task=Loss(), train_set_size=BATCHES * case.rows, device="cpu", proj_dim=size,
        save_dir=tempfile.mkdtemp(), use_half_precision=False, logging_level=logging.ERROR,
    )  # fmt: skip
    tracer.load_checkpoint(case.model.state_dict(), model_id=0)

    def run(batches: int) -> None:
        for _ in range(batches):
            tracer.featurize(batch=case.batch, num_samples=case.rows)

    return Work("featurize, vmap and BasicProjector", size, run)


METHODS = {"featurize, vmap and BasicProjector": featurize}
