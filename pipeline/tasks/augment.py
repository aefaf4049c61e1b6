"""Random changes of a batch of images while a model trains; the rows that are judged are never changed."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 4


def flip_and_shift(images: Tensor) -> Tensor:
    """[B, channels, H, W] mirrored with probability 1/2 and moved by up to four pixels, what is bared being zero.

    Draws from torch's global generator, as the training loop does.
    """
    count, _, height, width = images.shape
    mirrored = torch.where(torch.rand(count, 1, 1, 1) < 0.5, images.flip(3), images)
    padded = torch.nn.functional.pad(mirrored, [SHIFT] * 4)
    down, right = torch.randint(2 * SHIFT + 1, (2, count, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)  # [B, H], [B, W]
    return padded[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
