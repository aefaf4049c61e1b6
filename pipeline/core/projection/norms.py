"""Squared norms of gradients that are never formed.

|G|^2 of G = sum over t of o_t i_t^T costs T^2 (O + I) multiplications by Gram matrices or T O I by forming G: as much
as a training step's weight gradient. Where G is rotated anyway, an estimate costs next to nothing. With orthonormal
bases Q_o [O, r_o] and Q_i [I, r_i], the block C = Q_o^T G Q_i and the rest R = G - Q_o C Q_i^T,

    |G|^2 = |C|^2 + |R|^2,        N = Z_o^T R Z_i = Z_o^T G Z_i - (Z_o^T Q_o) C (Q_i^T Z_i)

and |N|^2 is an unbiased estimate of |R|^2 for Z_o [O, s] and Z_i [I, s] of independent random signs / sqrt(s): the
bases are just s columns wider. Its variance is at most ((1 + 2 / s)^2 - 1) |R|^4, reached where R has rank one
(Hutchinson's estimator on each side). Only what the bases leave out is guessed: good bases make a good estimate.

Letters: B rows, T positions, O outputs, I inputs, r basis size, s probes a side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.core.factors import Factor, squares
from pipeline.core.projection.streams import signs, stream

PROBES = 8


@dataclass(frozen=True)
class Probed:
    """Bases widened by probes.

    Attributes:
        output: Q_o and Z_o, [O, r_o + s].
        input: Q_i and Z_i, [I, r_i + s].
        left: Z_o^T Q_o, [s, r_o].
        right: Q_i^T Z_i, [r_i, s].
    """

    output: Tensor
    input: Tensor
    left: Tensor
    right: Tensor

    def rotated(self, output: Factor, input: Factor) -> tuple[Tensor, Tensor]:
        """Block and probes of a gradient's factors: C [B, r_o, r_i] and N [B, s, s]."""
        outputs, inputs = self.left.shape[1], self.right.shape[0]
        whole = torch.bmm(output.rotated(self.output).mT, input.rotated(self.input))
        block = whole[:, :outputs, :inputs]
        return block, whole[:, outputs:, inputs:] - self.left @ block @ self.right


def probed(name: str, output: Tensor, input: Tensor) -> Probed:
    """Bases [O, r_o] and [I, r_i] with the probes of a parameter: the same in every run, and drawn without a seed."""
    probes = [_probe(name, side, basis) for side, basis in (("output", output), ("input", input))]
    # Contiguous when transposed, which is how they are multiplied with.
    wide_output, wide_input = (
        torch.cat([basis.T, probe.T]).T for basis, probe in zip((output, input), probes, strict=True)
    )
    return Probed(wide_output, wide_input, probes[0].T @ output, input.T @ probes[1])


def square_and_variance(probes: Tensor) -> tuple[Tensor, Tensor]:
    """The estimate of |R|^2 and a bound of its variance, [B] each in float64, from N [B, s, s]."""
    square = squares(probes.flatten(1))
    return square, kronecker_variance(PROBES, PROBES) * square.square()


def kronecker_variance(first: int, second: int) -> float:
    """Largest variance of |Z_o^T G Z_i|^2 over |G|^4, for random signs in so many columns; 0 of a side not reduced."""
    return (1 + (2 / first if first else 0)) * (1 + (2 / second if second else 0)) - 1


def gram_is_exact_and_cheap(positions: int) -> bool:
    """Whether so few positions T have their exact norm by Gram matrices for no more than probes cost."""
    return positions <= 2 * PROBES


def _probe(name: str, side: str, basis: Tensor) -> Tensor:
    size = len(basis)
    drawn = signs(stream(0, f"norm {side}", name), size * PROBES).reshape(size, PROBES)
    return torch.from_numpy(drawn).to(basis) / PROBES**0.5
