"""Gradients that come as factors, sum over t of output[b, t] input[b, t]^T: norms, and entries piece by piece.

Letters: B rows, T positions, O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_BYTES = 2**22  # of materialised gradient at a time; measured best from 1 to 8 MiB: it stays in the cache


def blocks(output: Tensor, input: Tensor, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[int, Tensor]]:
    """The gradient's entries in order, a few outputs at a time.

    Args:
        output: [B, T, O].
        input: [B, T, I].
        block_bytes: how much to materialise at a time; at least one output.

    Yields:
        The position of the first entry in the flattened [O, I], and entries [B, n]. The memory is used again for the
        next block.
    """
    rows, positions, outputs = output.shape
    inputs = input.shape[2]
    step = min(outputs, max(1, block_bytes // max(1, rows * inputs * input.element_size())))
    buffer = input.new_empty(rows * step * inputs)
    for start in range(0, outputs, step):
        part = output[:, :, start : start + step]
        block = buffer[: rows * part.shape[2] * inputs].view(rows, part.shape[2], inputs)
        if positions == 1:
            torch.mul(part.mT, input, out=block)
        else:
            torch.bmm(part.mT, input, out=block)
        yield start * inputs, block.flatten(1)


def gram_is_cheaper(output: Tensor, input: Tensor, materialised: bool) -> bool:
    """Whether the norm costs less by T x T Gram matrices than by entries, which may be materialised anyway."""
    positions, outputs, inputs = output.shape[1], output.shape[2], input.shape[2]
    by_gram = positions**2 * (outputs + inputs)
    return by_gram <= outputs * inputs * (1 if materialised else positions + 1)


def gram_squares(output: Tensor, input: Tensor) -> Tensor:
    """Squared norms [B] in float64 by the Gram form: sum over t, u of (o_t . o_u) (i_t . i_u)."""
    if output.shape[1] == 1:
        return squares(output.flatten(1)) * squares(input.flatten(1))
    products = torch.bmm(output, output.mT).double() * torch.bmm(input, input.mT).double()
    return products.sum((1, 2)).clamp(min=0)  # rounding can make it negative where positions cancel


def squares(values: Tensor) -> Tensor:
    """Squared norms [B] in float64 of the rows of [B, n]."""
    return torch.linalg.vector_norm(values, dim=1).double().square()
