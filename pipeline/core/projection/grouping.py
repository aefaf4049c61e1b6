"""Fitting the second step of `eigenbasis`: coordinates that go together, and principal components of each group.

Rows of the sample are brought to length 1, so that a few of large norm do not decide for all; a row of zeros, or one
that is not finite, counts for nothing. Energies and correlations are uncentred: inner products are what is to be kept.

1. Groups of equal size, greedily: a group begins with the coordinate of most energy that is left, and takes the one
   whose squared correlations with its members have the largest sum, until it is full.
2. How many components each group keeps: components of one half of the rows, their energy in the other half, both ways.
   Within a group an energy counts as no more than those before it; the K largest of all groups are kept. The halves are
   every other row in the order of their norms, whatever order they came in.
3. The leading principal components of each group, from all rows. Where the rows are too few for them, they are
   continued by the coordinates of most energy, made orthogonal to them.

One group is the PCA of all coordinates. Letters: n rows, K1 coordinates, K compressed size, G groups, c coordinates of
a group. Correlations take K1^2 float32: 64 MiB for 4096, 256 for 8192; `fit_bytes` says what all of it takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.core.memory import WORKSPACES, resident
from pipeline.core.projection.blockdiagonal import BlockDiagonal
from pipeline.core.projection.sides import signed

RELATIVE_RANK = 1e-12
"""Components with less than this share of the largest one's energy are rounding and are replaced."""
COLUMNS = 1024  # of correlations at a time in float64


def fit_bytes(rows: int, selected: int, dimension: int, groups: int, each: int = 4) -> int:
    """Most resident bytes while `block_components` works, with the rows as they were gathered.

    Args:
        rows: n.
        selected: K1.
        dimension: K.
        groups: G.
        each: bytes of a number as gathered.
    """
    gathered, whole = resident(rows * selected * each), resident(rows * selected * 8)
    width = -(-selected // groups)
    finding = 3 * whole  # rows in another order, and divided, beside those that were given
    fitting = 2 * whole + principal_bytes(rows, width, min(dimension, width))
    if groups > 1:
        block = resident(min(COLUMNS, selected) * selected * 8)
        finding = max(finding, 3 * whole + resident(4 * selected**2) + block)  # scaled rows, correlations
        judging = 2 * whole + principal_bytes(rows // 2, width, width)  # of half of the rows, in the other half
        fitting += resident(min(dimension, selected) * width * 8)
        fitting = max(fitting, judging) + resident(rows * width * 8)
    return int(gathered + max(finding, fitting))


def principal_bytes(rows: int, width: int, dimension: int) -> float:
    """Most resident bytes beside the rows [n, c] while `principal` makes a matrix [c, k] of them."""
    small = min(rows, width)
    square, vectors = resident(8 * small**2), resident(8 * width * small)
    found, units = resident(8 * width * dimension), resident(8 * width * max(0, dimension - small))
    mixing = square + 2 * vectors if rows < width else 2 * square  # rows^T times vectors, and divided
    energies, signing = vectors + resident(8 * rows * width), vectors + units + 3 * found
    eigh, qr = (WORKSPACES[kind] for kind in (torch.ops.aten._linalg_eigh, torch.ops.aten.linalg_qr))
    return max(mixing, energies, signing) + max(eigh * square, qr * found)


def block_components(rows: Tensor, dimension: int, groups: int) -> BlockDiagonal:
    """The second step for rows like these.

    Args:
        rows: [n, K1] float64.
        dimension: K <= K1, over all groups.
        groups: G <= K1.
    """
    units = by_norm(rows)
    if groups == 1:
        return BlockDiagonal(torch.arange(rows.shape[1]), [principal(units, dimension)])
    members = alike(units, groups)
    counts = kept([held_out_energies(units[:, own]) for own in members], dimension)
    components = [principal(units[:, own], count) for own, count in zip(members, counts, strict=True)]
    return BlockDiagonal(torch.cat(members), components)


def by_norm(rows: Tensor) -> Tensor:
    """Those rows that have a direction at length 1, ascending by the norm that they had."""
    norms = torch.linalg.vector_norm(rows, dim=1)
    order = norms.argsort(stable=True)
    order = order[(norms > 0)[order] & norms.isfinite()[order]]
    return rows[order] / norms[order, None]


def alike(units: Tensor, groups: int) -> list[Tensor]:
    """Coordinates of each group, ascending; sizes differ by one at most."""
    affinity = squared_correlations(units)
    width = len(affinity)
    energy = units.square().sum(0).numpy()
    left = np.zeros(width)  # -inf where taken
    found = []
    for index in range(groups):
        seed = int((energy + left).argmax())
        size = width // groups + (index < width % groups)
        found.append(torch.from_numpy(_grown(seed, size, affinity, left)))
    return found


def _grown(seed: int, size: int, affinity: NDArray[Any], left: NDArray[Any]) -> NDArray[Any]:
    """A group of so many coordinates around a first one, ascending; they are marked as taken."""
    members, sums = [seed], affinity[seed].astype(np.float64)
    left[seed] = -np.inf
    while len(members) < size:
        best = int((sums + left).argmax())
        members.append(best)
        left[best] = -np.inf
        sums += affinity[best]
    return np.sort(np.array(members))


def squared_correlations(units: Tensor) -> NDArray[Any]:
    """Squared uncentred correlations of the coordinates of rows [n, K1], [K1, K1] float32; zero with one of none."""
    lengths = torch.linalg.vector_norm(units, dim=0)
    scaled = units / torch.where(lengths > 0, lengths, 1)
    found = np.empty((units.shape[1],) * 2, np.float32)
    for start in range(0, len(found), COLUMNS):
        found[start : start + COLUMNS] = (scaled[:, start : start + COLUMNS].T @ scaled).square_().numpy()
    return found


def held_out_energies(units: Tensor) -> Tensor:
    """The energy of each component of rows [n, c] in rows that it was not fitted on, [c], never rising."""
    halves = units[::2], units[1::2]
    found = torch.zeros(units.shape[1], dtype=units.dtype)
    for own, other in (halves, halves[::-1]):
        found += (other @ principal(own, len(found))).square().sum(0)
    return found.cummin(0).values


def kept(energies: Sequence[Tensor], dimension: int) -> list[int]:
    """How many components of each group are among the K of largest energy; equal ones in the order of the groups."""
    owner = torch.repeat_interleave(torch.tensor([len(own) for own in energies]))
    best = torch.cat(list(energies)).argsort(descending=True, stable=True)[:dimension]
    counts: list[int] = torch.bincount(owner[best], minlength=len(energies)).tolist()
    return counts


def principal(rows: Tensor, dimension: int) -> Tensor:
    """Orthonormal [K1, K]: leading right singular vectors of rows [n, K1], continued by coordinates of most energy."""
    count, width = rows.shape
    if count < width:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        vectors = rows.T @ vectors / values.clamp(min=torch.finfo(values.dtype).tiny).sqrt()
    else:
        values, vectors = torch.linalg.eigh(rows.T @ rows)
    values, vectors = values.flip(0), vectors.flip(1)
    vectors = vectors[:, : min(dimension, int((values > RELATIVE_RANK * values[:1].clamp(min=0)).sum()))]
    missing = dimension - vectors.shape[1]
    order = rows.square().sum(0).argsort(descending=True, stable=True)[:missing]
    units = torch.zeros(width, missing, dtype=rows.dtype)
    units[order, torch.arange(missing)] = 1
    return signed(torch.linalg.qr(torch.cat([vectors, units], 1)).Q)
