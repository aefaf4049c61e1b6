"""What the proof of an engine holds, as far as it is certain before it is begun."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import nn

Afford = Callable[[int], None]  # told of bytes that are about to be held beside what is held now; raises to refuse


def unlimited(_: int) -> None:
    """Afford everything."""


def proof_bytes(model: nn.Module, names: Sequence[str]) -> int:
    """Bytes that `cover` makes at least beside the model, from the number and dtype of its parameters alone.

    First comes the copy in float64. A model that cannot be copied is proven by true gradients in its own precision, of
    one row at least.
    """
    parameters = dict(model.named_parameters())
    if not _can_be_copied(model):
        return sum(parameters[name].nbytes for name in names)
    return sum(own.numel() * 8 if own.is_floating_point() else own.nbytes for own in parameters.values())


def _can_be_copied(model: nn.Module) -> bool:
    """Whether `copy.deepcopy` gets through, tried without a copy of any parameter or buffer."""
    try:
        copy.deepcopy(model, {id(own): own for own in (*model.parameters(), *model.buffers())})
    except Exception:
        return False
    return True
