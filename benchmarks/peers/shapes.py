"""What the peers' modules share: which layers a model has, and the sides of a double-sided projection near to K."""

from __future__ import annotations

from math import sqrt

from torch import nn


def layers(model: nn.Module, *kinds: type[nn.Module]) -> dict[str, nn.Module]:
    """Modules of some kinds by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def side(size: int, modules: int) -> int:
    """p with modules x p x p nearest to K."""
    return max(1, round(sqrt(size / modules)))


def without(model: nn.Module, covered: dict[str, nn.Module]) -> str:
    """Which layers with parameters a peer leaves out, in words; empty if none."""
    kinds = [
        type(module).__name__
        for name, module in model.named_modules()
        if name not in covered and any(True for _ in module.parameters(recurse=False))
    ]
    counts = [f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)]
    return f"leaves out {', '.join(counts)}" if counts else ""
