"""The small models of the built-in tasks.

Letters: B batch, T positions, V words, D width, H heads, C classes. Built of Linear, Conv2d, Embedding and norm layers
only, so that per-sample gradients come from their inputs and output gradients.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(sizes: list[int]) -> nn.Sequential:
    """Linear layers with ReLU between them on flattened inputs; `sizes` from the input's to C."""
    layers: list[nn.Module] = [nn.Flatten()]
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def small_cnn(side: int, classes: int) -> nn.Sequential:
    """Two convolutions and two linear layers on [B, 1, side, side]; 105,866 parameters at side 28 or 14 and C = 10.

    Side 14 is halved once only, so that as much is left to memorise with.
    """
    halvings = 2 if side > 14 else 1
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        *[nn.MaxPool2d(2)] * (halvings - 1),
        nn.Flatten(),
        nn.Linear(32 * (side // 2**halvings) ** 2, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def norm_cnn(classes: int, width: int = 16) -> nn.Sequential:
    """Four convolutions with batch normalisation, mean over positions, on [B, 1, H, W]; 61k parameters at width 16.

    The first convolution has stride 2 and is pooled: at full size it would cost more than all others together.
    """
    sizes = [1, width, 2 * width, 4 * width, 4 * width]
    layers: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        stride = 2 if inner == 1 else 1
        layers += [nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    layers[-1] = nn.AdaptiveAvgPool2d(1)  # the last pooling takes all positions that are left
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width, classes))


class Block(nn.Module):
    """A pre-norm transformer block: attention over the positions that may be seen, then a two-layer MLP."""

    def __init__(self, width: int, heads: int) -> None:
        """Width D and H heads."""
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """[B, T, D], and which positions each position sees (1: it does; [B, 1, T] or [T, T]), to [B, T, D]."""
        x = x + self.out(self._attend(self.norm_attention(x), seen))
        hidden: Tensor = self.down(torch.relu(self.up(self.norm_mlp(x))))
        return x + hidden

    def _attend(self, x: Tensor, seen: Tensor) -> Tensor:
        batch, positions, width = x.shape
        split = self.qkv(x).reshape(batch, positions, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [B, H, T, D/H]
        scores = q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)  # [B, H, T, T]
        # added, not filled: it works under torch.func.vmap too
        scores = scores + (1 - seen.unsqueeze(-3)) * -1e9
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, positions, width)


class TextTransformer(nn.Module):
    """A classifier of word sequences: embeddings, blocks, the mean over words, a linear layer."""

    def __init__(
        self, words: int, positions: int, classes: int, width: int = 96, blocks: int = 2, heads: int = 4
    ) -> None:
        """V words (0 is padding), T positions, C classes."""
        super().__init__()
        self.word, self.position = nn.Embedding(words, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)
        for table in (self.word, self.position):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] word numbers to [B, C] logits."""
        mask = (tokens != 0).to(self.head.weight.dtype)
        x = self.word(tokens) + self.position(torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens))
        for block in self.blocks:
            x = block(x, mask[:, None, :])
        weights = mask / mask.sum(1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head((self.norm(x) * weights[:, :, None]).sum(1))
        return logits


class LanguageModel(nn.Module):
    """A decoder: embeddings, blocks in which a position sees none that comes later, a linear layer over V words."""

    def __init__(self, words: int, positions: int, width: int = 96, blocks: int = 2, heads: int = 4) -> None:
        """V words, at most T positions."""
        super().__init__()
        self.word, self.position = nn.Embedding(words, width), nn.Embedding(positions, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, words)
        for table in (self.word, self.position):
            nn.init.normal_(table.weight, std=0.1)

    def states(self, tokens: Tensor) -> Tensor:
        """[B, T] word numbers to the last hidden states, [B, T, D]."""
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x: Tensor = self.word(tokens) + self.position(positions.expand_as(tokens))
        seen = (positions[:, None] >= positions).to(x.dtype)  # [T, T]
        for block in self.blocks:
            x = block(x, seen)
        return x

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, T] to logits of the next word, [B, T, V]."""
        logits: Tensor = self.head(self.norm(self.states(tokens)))
        return logits


class Centred(nn.Module):
    """Images of 0 to 1 to about -2 to 2, so that tasks can keep pixels that people can look at."""

    def forward(self, images: Tensor) -> Tensor:
        """[B, ...] to the same shape."""
        return (images - 0.5) * 4


def colour_cnn(classes: int, width: int = 32) -> nn.Sequential:
    """Three convolutions with group normalisation on [B, 3, 32, 32]; 113,962 parameters at width 32 and C = 10."""
    layers: list[nn.Module] = [Centred()]
    for inner, outer in pairwise([3, width, 2 * width, 4 * width]):
        layers += [nn.Conv2d(inner, outer, 3, padding=1, bias=False), nn.GroupNorm(8, outer), nn.ReLU()]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * width * 16, classes))
