"""kronfluence: influence by K-FAC and EK-FAC, with labels drawn from the model.

Its default damping is 1e-8; None asks for a tenth of the mean eigenvalue, as its authors' paper has it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch import Tensor, nn
from torch.distributions import Categorical
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from benchmarks.peers.pairs import Question

BATCH = 250
DAMPINGS = (1e-8, None, 1e-4, 1e-3)


class Classification(Task):
    """Summed cross-entropy."""

    def compute_train_loss(self, batch: tuple[Tensor, Tensor], model: nn.Module, sample: bool = False) -> Tensor:
        """With the rows' labels, or with some drawn from the model."""
        logits = model(batch[0])
        labels = Categorical(logits=logits.detach()).sample() if sample else batch[1]
        return cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
        """The loss of the queries."""
        return self.compute_train_loss(batch, model)


def influence(strategy: str) -> Callable[[Question], Iterator[tuple[str, Tensor]]]:
    """By factors of a strategy."""

    def scored(asked: Question) -> Iterator[tuple[str, Tensor]]:
        task = Classification()
        with tempfile.TemporaryDirectory() as directory:
            analyzer = Analyzer(
                "pairs", prepare_model(asked.model, task), task, cpu=True, output_dir=directory,
                disable_tqdm=True, disable_model_save=True,
            )  # fmt: skip
            train, query = TensorDataset(*asked.train), TensorDataset(*asked.query)
            analyzer.fit_all_factors("factors", train, BATCH, factor_args=FactorArguments(strategy=strategy))
            for damping in DAMPINGS:
                name = f"damping {damping}"
                analyzer.compute_pairwise_scores(
                    name, "factors", query, train, BATCH, per_device_train_batch_size=BATCH,
                    score_args=ScoreArguments(damping_factor=damping),
                )  # fmt: skip
                yield name, analyzer.load_pairwise_scores(name)["all_modules"].float()

    return scored


METHODS = {"influence, K-FAC": influence("kfac"), "influence, EK-FAC": influence("ekfac")}
