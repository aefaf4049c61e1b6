"""Where a model runs, and in which precision its forward pass does.

Codes and statistics never depend on it but for rounding: projections sum in float32 at least, norms in float64 (float32
on MPS, which has no float64), and a proof of the engine is made in float64, on the CPU where the device has none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.core.factors import precise
from pipeline.errors import ConfigError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "float32", "bfloat16"]


def chosen(name: Device) -> torch.device:
    """The device of that name; auto: CUDA where there is one, then MPS, else the CPU.

    Raises:
        ConfigError: this machine, or this build of torch, has none.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    if not there[name]:
        raise ConfigError(
            f"expected a device {name}, as compute.device says, got a machine or a torch ({torch.__version__}) "
            "without; choose auto or cpu"
        )
    return torch.device(name)


def has_float64(device: torch.device) -> bool:
    """Whether a device computes in float64, as `precise` has it."""
    return precise(torch.empty(0, device=device)).dtype == torch.float64


def settled(precision: Precision, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of forward passes; auto: bfloat16 on CUDA devices that compute in it, float32 elsewhere.

    On CPUs bfloat16 rarely gains, and it loses digits.
    """
    if precision != "auto":
        return precision
    gains = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if gains else "float32"


def in_precision(loss: Loss, device: torch.device, precision: Literal["float32", "bfloat16"]) -> Loss:
    """A loss whose forward pass runs in bfloat16 by autocast: matrix products alone. A model in float64 stays in it."""
    if precision == "float32":
        return loss

    def mixed(model: nn.Module, batch: Any) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16):
            losses = loss(model, batch)
        return losses if losses.dtype == torch.float64 else losses.float()

    return mixed
