"""What a classifier's last linear layer sees of a row: the features in which rows are near or far.

Found by looking on while the model runs: the last `Linear` whose output has the shape of the logits. A classifier that
ends otherwise has no features here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def logits_and_features(
    logits: Callable[[nn.Module, Any], Tensor], model: nn.Module, batch: Any
) -> tuple[Tensor, Tensor | None]:
    """Logits [B, C] of a batch, and the inputs of the layer that gave them, [B, D], or None."""
    seen: list[tuple[Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        for module in model.modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        result = logits(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    heads = [inputs for inputs, output in seen if output.shape == result.shape and inputs.dim() == 2]
    return result, heads[-1] if heads else None
