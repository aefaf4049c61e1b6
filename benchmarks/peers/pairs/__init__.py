"""Scores of pairs by other libraries, one module each, run in the peers' environment.

A module has `METHODS`: name to a function of a `Question` that yields (setting, scores), scores [Q, N] being signed and
larger where training on the train row lowers the query's loss. The first setting is the peer's own default; others are
tries of what it leaves to its user, so that no peer is judged by a value that does not suit the case. A module needs
torch and the peer, nothing of `pipeline`, and may fail: the reason is then what the benchmark says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Split = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Question:
    """A trained MLP and its rows.

    Attributes:
        model: of layers with ReLU between them, in eval mode.
        train: inputs [N, I] and labels [N].
        query: inputs [Q, I] and labels [Q].
    """

    model: nn.Module
    train: Split
    query: Split


def read(file: Path) -> Question:
    """What `benchmarks.lds` wrote."""
    with np.load(file) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    layers: list[nn.Module] = []
    for number in range(sum(name.startswith("weight-") for name in found)):
        weight, bias = found[f"weight-{number}"], found[f"bias-{number}"]
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [nn.ReLU(), layer] if layers else [layer]
    splits = [(found[f"{split}_x"], found[f"{split}_y"]) for split in ("train", "query")]
    return Question(nn.Sequential(*layers).eval(), *splits)
