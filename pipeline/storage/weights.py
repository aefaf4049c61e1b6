"""Model weights: safetensors of our own, others' .pt files read as data only. Only this module knows safetensors."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import CheckpointError


def save_weights(path: Path, model: nn.Module) -> None:
    """Write parameters and buffers; tied tensors are written once a name.

    Raises:
        OSError: it cannot be written; errno says why.
    """
    try:
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}, path)
    except SafetensorError as error:
        # The library hides the system's error in its text, where a full disk would not be recognised.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors, .pt, .pth or .bin file; pickles are read with `weights_only=True`.

    Raises:
        CheckpointError: missing, unreadable, or no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected weights at {path}, got nothing there; check task.checkpoint") from error
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"expected weights in {path}, got a file that does not load: {_first_line(error)}"
        ) from error
    except Exception as error:  # UnpicklingError and whatever a hostile pickle provokes
        raise CheckpointError(
            f"expected only tensors in {path}, got {type(error).__name__}: {_first_line(error)}; save the state dict "
            "alone"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"expected a state dict in {path}, got {type(state).__name__}; save model.state_dict()")
    return state


def load_into(model: nn.Module, path: Path) -> None:
    """Load the weights of `path` into `model`.

    Raises:
        CheckpointError: names or shapes differ; the first few are named.
    """
    state, own = read_weights(path), model.state_dict()
    wrong = [f"{name} {tuple(value.shape)} in the model, {tuple(state[name].shape)} in the file"
             for name, value in own.items() if name in state and state[name].shape != value.shape]  # fmt: skip
    wrong += [f"{name} is missing in the file" for name in own if name not in state]
    wrong += [f"{name} is unknown to the model" for name in sorted(state) if name not in own]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CheckpointError(
            f"expected weights of the task's model in {path}, got others: {'; '.join(wrong[:3])}{more}"
        )
    model.load_state_dict(state)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
