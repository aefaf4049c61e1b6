"""The hook engine's own promises: each parameter once, factors where a layer is linear, early release."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from pipeline.core.capture.hooks import HookEngine
from pipeline.core.factors import Factor
from pipeline.errors import TaskError
from tests.core.capture.models import ROWS, TABLE, classify, problem


class Log:
    """A sink that keeps how each parameter came."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, tuple[int, ...]]] = []

    def dense(self, name: str, gradient: Tensor) -> None:
        self.calls.append((name, "dense", tuple(gradient.shape)))

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        self.calls.append((name, "outer", (*output.shape[1:], *input.shape[2:])))


@pytest.mark.parametrize("name", TABLE)
def test_each_parameter_once(name: str) -> None:
    case = problem(name)
    names = [n for n, _ in case.model.named_parameters() if n not in case.functional and not n.startswith("unused")]
    log = Log()
    HookEngine(case.model, case.loss, names, {"positions.weight": "shared"}).capture(case.batch, log)
    assert sorted(call[0] for call in log.calls) == sorted(names)


def test_weights_come_as_factors() -> None:
    case = problem("used twice")
    names = [n for n, _ in case.model.named_parameters()]
    log = Log()
    HookEngine(case.model, case.loss, names).capture(case.batch, log)
    assert {call[0]: call[1:] for call in log.calls} == {
        "head.weight": ("outer", (1, 3, 6)),
        "head.bias": ("dense", (ROWS, 3)),
        "shared.weight": ("outer", (2, 6, 6)),  # both uses, joined along the positions
        "shared.bias": ("dense", (ROWS, 6)),
    }


def test_convolutions_come_as_patches() -> None:
    case = problem("conv")
    log = Log()
    HookEngine(case.model, case.loss, ["0.weight", "2.weight"]).capture(case.batch, log)
    assert log.calls == [("2.weight", "outer", (3 * 6, 2, 24)), ("0.weight", "outer", (4 * 7, 6, 24))]


def test_factors_are_dropped_as_soon_as_they_are_emitted() -> None:
    """Going backward, the last layer's input is free before the first layer's arrives."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2))
    alive: list[StorageWeakRef] = []
    counts: list[int] = []

    class Watch(Log):
        def outer(self, name: str, output: Factor, input: Factor) -> None:
            gc.collect()
            counts.append(sum(not ref.expired() for ref in alive))
            alive.extend(StorageWeakRef(factor.values().untyped_storage()) for factor in (output, input))

    batch = (torch.randn(3, 4), torch.tensor([0, 1, 0]))
    HookEngine(model, classify, ["0.weight", "2.weight", "4.weight"]).capture(batch, Watch())
    assert counts == [0, 0, 0]


def test_a_use_that_does_not_reach_the_loss_does_not_hold_back_the_rest() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.layer(x + 1)
            return self.layer(x)

    model, log = Net(), Log()
    HookEngine(model, classify, ["layer.weight", "layer.bias"]).capture((torch.randn(2, 3), torch.tensor([0, 1])), log)
    assert sorted(call[:2] for call in log.calls) == [("layer.bias", "dense"), ("layer.weight", "outer")]


def test_layers_without_a_formula_are_refused() -> None:
    model = nn.Sequential(nn.Conv3d(1, 1, 1), nn.Linear(1, 1), nn.Embedding(3, 2, max_norm=1.0))
    with pytest.raises(TaskError, match="expected parameters of layers that hooks serve, got 0.weight, 2.weight: use"):
        HookEngine(model, classify, ["0.weight", "1.weight", "2.weight"])


def test_a_batch_dimension_that_moves_is_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x[:1]).expand(x.shape[0], -1)

    batch = (torch.randn(2, 3), torch.tensor([0, 1]))
    with pytest.raises(TaskError, match="expected every layer to see the batch as it did before, got layer.weight: "):
        HookEngine(Net(), classify, ["layer.weight"]).capture(batch, Log())
