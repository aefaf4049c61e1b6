"""Models, batches and losses that capture is measured on. Needs torch alone: it runs in the peers' environment too.

Letters: B rows of a batch, T positions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A model and a batch for it.

    Attributes:
        key: its name on a command line.
        name: its name in a table.
        model: random weights, the same in every process.
        batch: inputs and labels of B rows.
        batches: how often a timed run takes the batch, so that a run is long beside the clock and the making of a
            store, whose cost a shard of the default size, which has four times as many rows of the MLP, does not feel.
    """

    key: str
    name: str
    model: nn.Module
    batch: Batch
    batches: int

    @property
    def rows(self) -> int:
        """B."""
        return len(self.batch[0])


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy of each row, summed over positions where there are any: [B]."""
    return losses(model(batch[0]), batch[1])


def losses(logits: Tensor, labels: Tensor) -> Tensor:
    """The same from logits [B, C] or [B, T, C]."""
    if logits.dim() == 3:
        return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    return functional.cross_entropy(logits, labels, reduction="none")


def mlp() -> Case:
    """An MLP, T = 1."""
    model = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    batch = (torch.randn(256, 784), torch.randint(10, (256,)))
    return Case("mlp", "MLP 784-512-512-10, B 256", model, batch, batches=256)


def cnn() -> Case:
    """A CNN with norm layers."""
    model = nn.Sequential(
        *_block(3, 64), *_block(64, 64), nn.MaxPool2d(2), *_block(64, 128), *_block(128, 128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    batch = (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))
    return Case("cnn", "CNN 64-64-128-128 with GroupNorm, 32x32, B 32", model, batch, batches=8)


def transformer() -> Case:
    """A transformer that predicts tokens."""
    model = nn.Sequential(nn.Embedding(512, 192), *(Block(192) for _ in range(4)), nn.Linear(192, 512))
    batch = (torch.randint(512, (16, 64)), torch.randint(512, (16, 64)))
    return Case("transformer", "transformer d 192, 4 blocks, T 64, B 16", model, batch, batches=16)


CASES: dict[str, Callable[[], Case]] = {"mlp": mlp, "cnn": cnn, "transformer": transformer}


def case(key: str) -> Case:
    """A case by its key, made anew from the same seed."""
    torch.manual_seed(0)
    return CASES[key]()


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]


class Block(nn.Module):
    """A pre-norm transformer block whose attention is built from linear layers."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, positions, width = x.shape
        parts = self.qkv(self.before(x)).reshape(rows, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, positions, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))
