"""kronfluence: it stores no gradients, compressed or not. Nearest to a capture is self-influence without curvature.

Every row's gradient of every linear and convolutional layer is formed and squared: one number a row.
"""

from __future__ import annotations

from typing import Any

from accelerate.state import PartialState
from kronfluence.analyzer import prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.score.self import compute_self_scores_with_loaders
from kronfluence.task import Task
from kronfluence.utils.state import State
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.models import Batch, Case, loss
from benchmarks.peers.shapes import layers, without
from benchmarks.timing import Work


class Summed(Task):
    """The summed loss."""

    def compute_train_loss(self, batch: Batch, model: nn.Module, sample: bool = False) -> Tensor:
        """The loss that gradients are taken of."""
        return loss(model, batch).sum()

    def compute_measurement(self, batch: Batch, model: nn.Module) -> Tensor:
        """The same."""
        return self.compute_train_loss(batch, model)


def self_influence(case: Case, size: int) -> Work:
    """Squared norms of the layers' gradients, summed, as `Analyzer.compute_self_scores` finds them for some batches."""
    left_out = without(case.model, layers(case.model, nn.Linear, nn.Conv2d))
    PartialState(cpu=True)
    state, task = State(cpu=True), Summed()
    model = prepare_model(case.model, task)
    settings = {"score_args": ScoreArguments(), "factor_args": FactorArguments(strategy="identity")}

    def run(batches: int) -> Any:
        loader = DataLoader([case.batch] * batches, batch_size=None)
        return compute_self_scores_with_loaders(
            loaded_factors={}, model=model, state=state, task=task, train_loader=loader, tracked_module_names=None,
            disable_tqdm=True, **settings,
        )  # fmt: skip

    note = "stores no gradients; gradients of each row are formed, one score a row is kept"
    return Work("self-influence, identity", 1, run, "; ".join(filter(None, (note, left_out))))


METHODS = {"self-influence, identity": self_influence}
