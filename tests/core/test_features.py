"""The inputs of the layer that gives the logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.features import logits_and_features


def logits(model: nn.Module, batch: Any) -> Tensor:
    result: Tensor = model(batch)
    return result


def test_features_are_what_the_last_linear_layer_saw() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))  # both layers have the shape of the logits
    x = torch.randn(5, 4)
    result, features = logits_and_features(logits, model, x)
    assert torch.equal(result, model(x)) and features is not None
    assert torch.equal(features, model[:2](x))
    assert not any(module._forward_hooks for module in model.modules())


def test_without_such_a_layer_there_are_none() -> None:
    model = nn.Sequential(nn.Conv1d(2, 6, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    assert logits_and_features(logits, model, torch.randn(3, 2, 7))[1] is None
