"""Products with the gradients of all rows, none of them written out.

    dots       g_i . v of every row: sum_i u_i l_i has the gradient sum_i u_i g_i, and the product of that with v,
               differentiated by u, is g_i . v (Pearlmutter's trick, turned round)
    weighted   sum_i w_i g_i
    fisher     C v = (1/n) sum_i g_i (g_i . v): one after the other

C is the empirical Fisher matrix, so that C + lambda can be inverted wherever the model is. Vectors are [P] in float64
on the CPU, the parameters one after the other; sums over batches are float64, products within a batch of the model's
precision. Letters: n rows, P parameters' numbers, k vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.capture.engine import Loss
from pipeline.core.capture.state import capturing
from pipeline.core.rows import Part, Rows, batches, losses_of
from pipeline.core.sharpness import differentiable_attention


class RowGradients:
    """The gradients of some rows with respect to some parameters, as an operator."""

    def __init__(self, model: nn.Module, loss: Loss, rows: Rows, names: Sequence[str], batch_rows: int) -> None:
        """Of a model at its weights.

        Args:
            model: in any mode; it is measured in eval mode.
            loss: per-sample loss.
            rows: the n rows.
            names: of the parameters.
            batch_rows: rows at once.
        """
        self.model, self.loss, self.rows, self.names, self.batch_rows = model, loss, rows, tuple(names), batch_rows
        known = dict(model.named_parameters())
        self._parameters = [known[name] for name in self.names]
        self.size = sum(p.numel() for p in self._parameters)

    def of(self, indices: Sequence[int]) -> RowGradients:
        """The same of some of the rows."""
        return RowGradients(self.model, self.loss, Part(self.rows, indices), self.names, self.batch_rows)

    def dots(self, vectors: Tensor) -> Tensor:
        """g_i . v of each row and vector, [n, k].

        Args:
            vectors: [k, P].
        """
        directions = [self._shaped(vector) for vector in vectors]
        return torch.cat([self._dots(losses, directions) for losses in self._losses()])

    def weighted(self, weights: Tensor) -> Tensor:
        """sum_i w_i g_i, [P]; weights are [n]."""
        total, first = torch.zeros(self.size, dtype=torch.float64), 0
        for losses in self._losses():
            part = weights[first : first + len(losses)].to(losses)
            gradients = torch.autograd.grad(losses @ part, self._parameters, materialize_grads=True)
            total += torch.cat([g.detach().reshape(-1).cpu().double() for g in gradients])
            first += len(losses)
        return total

    def mean(self) -> Tensor:
        """The mean gradient, [P]."""
        return self.weighted(torch.full((len(self.rows),), 1 / len(self.rows), dtype=torch.float64))

    def fisher(self, vector: Tensor) -> Tensor:
        """C v, [P]."""
        return self.weighted(self.dots(vector[None])[:, 0] / len(self.rows))

    def _losses(self) -> Iterator[Tensor]:
        """Of every batch, [B], with a graph."""
        with self._measuring():
            for number, (batch, count) in enumerate(batches(self.rows, self.batch_rows)):
                yield losses_of(self.model, self.loss, batch, count, number)

    @contextmanager
    def _measuring(self) -> Iterator[Any]:
        with capturing(self.model, self.names), differentiable_attention():
            yield

    def _shaped(self, vector: Tensor) -> list[Tensor]:
        pieces = vector.split([p.numel() for p in self._parameters])
        return [piece.reshape(p.shape).to(p) for piece, p in zip(pieces, self._parameters, strict=True)]

    def _dots(self, losses: Tensor, directions: list[list[Tensor]]) -> Tensor:
        weights = torch.ones_like(losses, requires_grad=True)
        gradients = torch.autograd.grad(losses @ weights, self._parameters, create_graph=True, materialize_grads=True)
        found = []
        for direction in directions:
            slope = torch.stack([(g * d).sum() for g, d in zip(gradients, direction, strict=True)]).sum()
            (dots,) = torch.autograd.grad(slope, weights, retain_graph=True)
            found.append(dots.detach().cpu().double())
        return torch.stack(found, 1)
