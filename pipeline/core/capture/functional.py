"""The functional engine: per-sample gradients of any parameter through `torch.func`.

For each row b, made a batch of one, it takes d l_b / d theta of the loss as a function of the named parameters: by
vmap(grad) over the rows, or, where vmap cannot trace the model (control flow that depends on data, in-place operations,
recurrent layers, texts in the batch), by a loop over rows. Both materialise P-sized gradients, so that they serve what
the hook engine cannot.

Memory: parameters are taken in groups and rows in chunks, so that neither a group's gradients [B, ...] nor those of a
chunk in flight exceed the byte budget (a single parameter above it makes a group of its own).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.core.capture import batches
from pipeline.core.capture.engine import Loss
from pipeline.core.capture.state import capturing, check_losses
from pipeline.core.sink import Sink
from pipeline.errors import TaskError

Mode = Literal["vmap", "loop"]
Gradients = dict[str, Tensor]  # name -> [B, *shape of the parameter]

BUDGET_BYTES = 2**30


class FunctionalEngine:
    """Captures by vmap(grad) over rows, or by a loop over rows.

    Attributes:
        names: the parameters that are served.
        mode: "vmap" or "loop"; None before the first batch, which decides it once for all.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        names: Sequence[str],
        mode: Mode | None = None,
        budget_bytes: int = BUDGET_BYTES,
    ) -> None:
        """Bind the engine to a model; see the class for `mode` and the module for `budget_bytes`.

        Raises:
            TaskError: there is nothing to capture.
        """
        if not names:
            raise TaskError("expected at least one parameter to capture, got none: look at the parameter patterns")
        self.names = tuple(names)
        self.mode = mode
        self._model = model
        self._wrapped = _WithLoss(model, loss)
        self._parameters = dict(model.named_parameters())
        self._budget_bytes = budget_bytes

    def capture(self, batch: Any, sink: Sink) -> Tensor:
        """Feed the gradients of `batch` to `sink`, all dense, and return the losses, [B].

        Raises:
            TaskError: the loss of a batch of one has another shape than [1].
        """
        size = batches.batch_size(batch)
        with capturing(self._model, self.names):
            for group in self._groups(size):
                losses, gradients = self._compute(batch, size, group)
                for name in group:
                    sink.dense(name, gradients.pop(name))
        return losses

    def chunk_size(self, group: Sequence[str]) -> int:
        """Rows of a vmap whose gradients fit the budget, beside as much again for what grad holds meanwhile."""
        row_bytes = sum(self._row_bytes(name) for name in group)
        return max(1, self._budget_bytes // max(1, 2 * row_bytes))

    def _row_bytes(self, name: str) -> int:
        parameter = self._parameters[name]
        return parameter.numel() * parameter.element_size()

    def _groups(self, size: int) -> Iterator[list[str]]:
        """Names in order, as many at a time as have gradients [B, ...] within the budget."""
        group: list[str] = []
        used = 0
        for name in self.names:
            need = size * self._row_bytes(name)
            if group and used + need > self._budget_bytes:
                yield group
                group, used = [], 0
            group.append(name)
            used += need
        yield group

    def _compute(self, batch: Any, size: int, group: list[str]) -> tuple[Tensor, Gradients]:
        if self.mode is None:
            return self._first(batch, size, group)
        return self._by_vmap(batch, size, group) if self.mode == "vmap" else self._by_loop(batch, size, group)

    def _first(self, batch: Any, size: int, group: list[str]) -> tuple[Tensor, Gradients]:
        """Choose the mode: vmap if it gets through; otherwise the loop, whose errors are the model's own."""
        result = None
        if not batches.has_columns(batch, size):
            try:
                result = self._by_vmap(batch, size, group)
            except Exception:
                result = None
        self.mode = "loop" if result is None else "vmap"
        return self._by_loop(batch, size, group) if result is None else result

    def _by_vmap(self, batch: Any, size: int, group: list[str]) -> tuple[Tensor, Gradients]:
        step = self.chunk_size(group)
        chunks = ((start, min(start + step, size)) for start in range(0, size, step))
        parts = ((start, stop, self._vmap(batches.rows(batch, start, stop, size), group)) for start, stop in chunks)
        return self._gather(parts, size, group)

    def _vmap(self, batch: Any, group: list[str]) -> tuple[Tensor, Gradients]:
        """Gradients [n, ...] and losses [n] of all rows of a chunk at once."""
        size = batches.batch_size(batch)

        def loss_of_row(parameters: Gradients, tensors: list[Tensor]) -> Tensor:
            row = batches.with_tensors(batch, size, [tensor.unsqueeze(0) for tensor in tensors])
            losses = functional_call(self._wrapped, parameters, (row,))
            check_losses(losses, 1)
            return losses[0]

        parameters = {"model." + name: self._parameters[name].detach() for name in group}
        per_row = vmap(grad_and_value(loss_of_row), in_dims=(None, 0))
        # The fused attention kernels have no batching rule; the plain formula has.
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
            warnings.simplefilter("ignore")
            gradients, losses = per_row(parameters, batches.row_tensors(batch, size))
        return losses, {name: gradients["model." + name] for name in group}

    def _by_loop(self, batch: Any, size: int, group: list[str]) -> tuple[Tensor, Gradients]:
        parts = ((i, i + 1, self._row(batches.rows(batch, i, i + 1, size), group)) for i in range(size))
        return self._gather(parts, size, group)

    def _row(self, row: Any, group: list[str]) -> tuple[Tensor, Gradients]:
        """Gradients [1, ...] and loss [1] of a batch of one."""
        losses = self._wrapped(row)
        check_losses(losses, 1)
        parameters = [self._parameters[name] for name in group]
        found: Sequence[Tensor | None] = [None] * len(group)
        if losses.requires_grad:
            found = torch.autograd.grad(losses[0], parameters, allow_unused=True)
        gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
        return losses.detach(), {name: g.unsqueeze(0) for name, g in zip(group, gradients, strict=True)}

    def _gather(
        self, parts: Iterator[tuple[int, int, tuple[Tensor, Gradients]]], size: int, group: list[str]
    ) -> tuple[Tensor, Gradients]:
        """Chunks of rows put together; a single chunk is handed on without a copy."""
        losses: list[Tensor] = []
        whole: Gradients = {}
        for start, stop, (loss, gradients) in parts:
            losses.append(loss.detach())
            if stop - start == size:
                return losses[0], gradients
            for name in group:
                if name not in whole:
                    whole[name] = gradients[name].new_empty(size, *gradients[name].shape[1:])
                whole[name][start:stop] = gradients.pop(name)
        return torch.cat(losses), whole


class _WithLoss(nn.Module):
    """The model and its loss as one module, so that `functional_call` swaps parameters wherever the loss uses them."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, batch: Any) -> Tensor:
        return self._loss(self.model, batch)
