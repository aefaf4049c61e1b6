"""A small class-conditional U-Net that foresees the noise in an image, for the built-in diffusion tasks.

Two resolutions, residual blocks with group norms, time and class added to the channels of each block (Ho, Jain, Abbeel,
NeurIPS 2020, in small). Letters: B rows, C channels of an image, S its side, D the width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 4
LONGEST_PERIOD = 10_000.0


class Block(nn.Module):
    """Two convolutions with a way around them; what is known of time and class is added between them."""

    def __init__(self, inputs: int, outputs: int, known: int) -> None:
        """From `inputs` to `outputs` channels, with `known` numbers on time and class."""
        super().__init__()
        self.first, self.second = nn.GroupNorm(GROUPS, inputs), nn.GroupNorm(GROUPS, outputs)
        self.enter, self.leave = (nn.Conv2d(n, outputs, 3, padding=1) for n in (inputs, outputs))
        self.known = nn.Linear(known, outputs)
        self.around = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """[B, inputs, S, S] to [B, outputs, S, S]."""
        inner = self.enter(F.silu(self.first(x))) + self.known(known)[:, :, None, None]
        out: Tensor = self.around(x) + self.leave(F.silu(self.second(inner)))
        return out


class SmallUnet(nn.Module):
    """Noise of an image [B, C, S, S] at time [B] under a class [B]; S is even."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        """`width` is D, a multiple of 4; `classes` 0: the class is not looked at."""
        super().__init__()
        known = 2 * width
        self._width = width
        self.time = nn.Sequential(nn.Linear(width, known), nn.SiLU(), nn.Linear(known, known))
        self.label = nn.Embedding(classes, known) if classes else None
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.down = Block(width, width, known)
        self.shrink = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.low = nn.ModuleList(Block(2 * width, 2 * width, known) for _ in range(2))
        self.grow = nn.Conv2d(2 * width, width, 3, padding=1)
        self.up = Block(2 * width, width, known)
        self.norm, self.leave = nn.GroupNorm(GROUPS, width), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """The noise, [B, C, S, S]."""
        known = self.known(times, labels)
        high = self.down(self.enter(x), known)
        low = F.interpolate(self.bottom(high, known), scale_factor=2, mode="nearest")
        out: Tensor = self.leave(F.silu(self.norm(self.up(torch.cat([high, self.grow(low)], 1), known))))
        return out

    def features(self, x: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """What the lowest blocks make of an image, mean over positions, [B, 2 D]."""
        known = self.known(times, labels)
        return self.bottom(self.down(self.enter(x), known), known).mean((2, 3))

    def known(self, times: Tensor, labels: Tensor) -> Tensor:
        """Time and class as numbers, [B, 2 D]."""
        known: Tensor = self.time(waves(times, self._width))
        if self.label is not None:
            known = known + self.label(labels)
        return F.silu(known)

    def bottom(self, high: Tensor, known: Tensor) -> Tensor:
        """From [B, D, S, S] to [B, 2 D, S / 2, S / 2]."""
        low: Tensor = self.shrink(high)
        for block in self.low:
            low = block(low, known)
        return low


def waves(times: Tensor, width: int) -> Tensor:
    """Sines and cosines of times [B] at `width` / 2 frequencies, [B, width]."""
    half = width // 2
    rates = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=times.device) / half)
    angles = times[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)
