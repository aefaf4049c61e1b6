"""Which formula serves which layer."""

from __future__ import annotations

from torch import nn

from pipeline.core.capture.convolution import ConvFormula
from pipeline.core.capture.formula import Formula
from pipeline.core.capture.layers import (
    BatchNormFormula,
    EmbeddingFormula,
    GroupNormFormula,
    LayerNormFormula,
    LinearFormula,
    NarrowRMSNormFormula,
    RMSNormFormula,
    TransposedLinearFormula,
)

FORMULAS: dict[type[nn.Module], Formula] = {
    nn.Linear: LinearFormula(),
    nn.Conv1d: ConvFormula(),
    nn.Conv2d: ConvFormula(),
    nn.Embedding: EmbeddingFormula(),
    nn.LayerNorm: LayerNormFormula(),
    nn.RMSNorm: RMSNormFormula(),
    nn.GroupNorm: GroupNormFormula(),
    nn.BatchNorm1d: BatchNormFormula(),
    nn.BatchNorm2d: BatchNormFormula(),
    nn.BatchNorm3d: BatchNormFormula(),
}


def formula_of(module: nn.Module) -> Formula | None:
    """The formula that holds for a module, or None.

    A subclass counts as its base while it keeps the base's forward pass.
    """
    for kind, formula in FORMULAS.items():
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return formula if formula.serves(module) else None
    if _is_narrow_rms_norm(module):
        return NarrowRMSNormFormula()
    return TransposedLinearFormula() if _is_transposed_linear(module) else None


def _is_narrow_rms_norm(module: nn.Module) -> bool:
    """Recognise the RMSNorm of a model of `transformers`, of which each family has its own: a weight and an epsilon."""
    own = dict(module.named_parameters(recurse=False))
    return own.keys() == {"weight"} and own["weight"].dim() == 1 and hasattr(module, "variance_epsilon")


def _is_transposed_linear(module: nn.Module) -> bool:
    """Recognise the Conv1D of `transformers` without importing it: by its name, and a weight [I, O] to a bias [O]."""
    own = dict(module.named_parameters(recurse=False))
    if type(module).__name__ != "Conv1D" or own.keys() != {"weight", "bias"} or own["weight"].dim() != 2:
        return False
    return own["bias"].shape == own["weight"].shape[1:]
