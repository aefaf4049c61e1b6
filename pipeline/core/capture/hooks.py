"""The hook engine: all per-sample gradients from one batched forward and backward pass.

The gradient of a layer that is linear in its weight is an outer product of the layer's input and the gradient of its
output, and both pass by in a batched pass: forward hooks keep the inputs, tensor hooks on the outputs get the gradients
of the summed loss, in whose b-th row only l_b is felt. The parameters' own gradients are off, so that the backward pass
is cheaper than that of training. The formulas a layer are in `formulas`.

A parameter's contributions are summed over all its uses in the forward pass (tied weights, a module that is called
twice) and handed to the sink as soon as the last has arrived; nothing is kept beyond.

The batch is found in a layer's tensors by their *layout*:

* "rows": first, maybe flattened together with positions: [B, ...] or [B * T, ...];
* "shared": nowhere: the input is the same for all rows (positions, say: [T] or [1, T]) and the output is broadcast
  later. The output is expanded to B rows so that the rows' gradients stay apart;
* "second": after the positions: [T, B, ...].

What a layout cannot serve, `cover` finds out by comparison with autograd.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.capture.batches import batch_size
from pipeline.core.capture.engine import Loss
from pipeline.core.capture.formula import Formula, Outer, Part, total
from pipeline.core.capture.formulas import formula_of
from pipeline.core.capture.state import capturing, check_losses
from pipeline.core.sink import Sink
from pipeline.errors import TaskError

Layout = Literal["rows", "shared", "second"]


@dataclass(frozen=True)
class Use:
    """A module that holds parameters to be captured.

    Attributes:
        module: the layer.
        formula: its gradients.
        weight: name of its weight, None if that is not captured.
        bias: the same for its bias.
        layout: where its tensors have the batch.
    """

    module: nn.Module
    formula: Formula
    weight: str | None
    bias: str | None
    layout: Layout


class HookEngine:
    """Captures by hooks on layers with known formulas.

    Attributes:
        names: the parameters that are served.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        names: Sequence[str],
        layouts: Mapping[str, Layout] | None = None,
        unused: Sequence[str] = (),
    ) -> None:
        """Bind the engine to a model.

        Args:
            model: the model.
            loss: the loss of each row.
            names: parameters to capture.
            layouts: layouts of the layers of parameters that are not laid out in "rows".
            unused: those of `names` that the loss does not depend on: zeros, and watched.

        Raises:
            TaskError: a parameter belongs to no layer with a known formula.
        """
        missing = [name for name in names if name not in servable(model).union(unused)]
        if missing:
            listed = ", ".join(missing)
            raise TaskError(f"expected parameters of layers that hooks serve, got {listed}: use engine=auto")
        self.names = tuple(names)
        self._model, self._loss = model, loss
        self._uses = _uses(model, frozenset(names).difference(unused), layouts or {})
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._unused = {name: parameter for name, parameter in model.named_parameters() if name in unused}

    def capture(self, batch: Any, sink: Sink) -> Tensor:
        """Feed the gradients of `batch` to `sink` and return the losses, [B].

        Raises:
            TaskError: a layer's tensors do not have the batch where they had it when the engine was chosen, or a
                parameter that was unused then is used now.
        """
        losses, _, failures = self.attempt(batch, sink)
        if failures:
            name, reason = next(iter(failures.items()))
            raise TaskError(f"expected every layer to see the batch as it did before, got {name}: {reason}")
        return losses

    def attempt(self, batch: Any, sink: Sink) -> tuple[Tensor, Counter[str], dict[str, str]]:
        """As `capture`, but failures are told, not raised.

        Returns:
            The losses, [B]; how often a hook served each parameter; and parameters whose formula failed, with why.
        """
        run = _Pass(batch_size(batch), sink, self._shapes)
        with capturing(self._model, self._unused), run.hooked(self._uses):
            losses = self._loss(self._model, batch)
            check_losses(losses, run.rows)
            if losses.requires_grad:
                sources = [run.anchor, *self._unused.values()]
                _, *found = torch.autograd.grad(losses.sum(), sources, allow_unused=True)
                used = [name for name, gradient in zip(self._unused, found, strict=True) if gradient is not None]
                run.failures.update(dict.fromkeys(used, "the loss depends on it now and did not then"))
        run.finish(self.names, losses)
        return losses.detach(), run.fired, run.failures


def servable(model: nn.Module) -> set[str]:
    """Names of the parameters that belong to a layer with a known formula."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]
        for module in model.modules()
        if formula_of(module) is not None
        for role, parameter in module.named_parameters(recurse=False)
        if role in ("weight", "bias")
    }


def _uses(model: nn.Module, wanted: frozenset[str], layouts: Mapping[str, Layout]) -> list[Use]:
    """All modules with a known formula that hold a wanted parameter, also under a name of its own for a tied one."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    uses = []
    for module in model.modules():
        formula = formula_of(module)
        own = {role: names[id(p)] for role, p in module.named_parameters(recurse=False) if names[id(p)] in wanted}
        weight, bias = own.get("weight"), own.get("bias")
        if formula is not None and (weight or bias):
            layout = layouts.get(weight or "", layouts.get(bias or "", "rows"))
            uses.append(Use(module, formula, weight, bias, layout))
    return uses


class _Pass:
    """What one forward and backward pass has to remember."""

    def __init__(self, rows: int, sink: Sink, shapes: Mapping[str, torch.Size]) -> None:
        self.rows = rows
        self.fired: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        # Gradients flow to whatever depends on a tensor that requires them; with all parameters off, this is the one.
        self.anchor = torch.zeros((), requires_grad=True)
        self._sink, self._shapes = sink, shapes
        self._pending: Counter[str] = Counter()
        self._parts: dict[str, list[Part]] = {}
        self._emitted: set[str] = set()

    @contextmanager
    def hooked(self, uses: Sequence[Use]) -> Iterator[None]:
        """Hooks on all uses, removed at the end."""
        handles = [
            use.module.register_forward_hook(self._forward_hook(use), prepend=True, with_kwargs=True) for use in uses
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, names: Sequence[str], losses: Tensor) -> None:
        """Emit what waits for uses that do not reach the loss, and zeros for parameters without any that does."""
        for name in names:
            if name not in self._emitted and name not in self.failures:
                zeros = losses.new_zeros(()).expand(self.rows, *self._shapes[name])
                self._emit(name) if name in self._parts else self._sink.dense(name, zeros)

    def _forward_hook(self, use: Use) -> Callable[..., Tensor]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
            given = args[0] if args else next(iter(kwargs.values()))
            input = given.detach() if use.weight else None  # a bias needs none
            if use.layout == "shared":
                input, output = self._expanded(input), self._expanded(output)
            if not output.requires_grad:
                output = _Join.apply(output, self.anchor)
            names = [name for name in (use.weight, use.bias) if name]
            self.fired.update(names)
            self._pending.update(names)
            kept = [input]  # emptied on arrival: the hook itself lives as long as the graph
            output.register_hook(lambda gradient: self._arrive(use, kept.pop(), gradient.detach()))
            return output

        return hook

    def _expanded(self, values: Any) -> Any:
        """[T, ...] or [1, T, ...] to [B, T, ...]; None stays."""
        if values is None:
            return None
        one = values if values.shape[0] == 1 else values.unsqueeze(0)
        return one.expand(self.rows, *one.shape[1:])

    def _arrive(self, use: Use, input: Tensor | None, gradient: Tensor) -> None:
        if use.layout == "second":
            input, gradient = (None if input is None else input.transpose(0, 1), gradient.transpose(0, 1))
        if use.weight and input is not None:
            self._add(use.weight, lambda: use.formula.weight(use.module, input, gradient, self.rows))
        if use.bias:
            self._add(use.bias, lambda: use.formula.bias(use.module, gradient, self.rows))

    def _add(self, name: str, part: Callable[[], Part]) -> None:
        """Add a contribution, and emit the sum with the last one."""
        if name in self.failures:
            return
        try:
            self._parts.setdefault(name, []).append(part())
        except (RuntimeError, ValueError, IndexError) as error:  # shapes that do not divide into B rows
            self._fail(name, error)
            return
        self._pending[name] -= 1
        if not self._pending[name]:
            self._emit(name)

    def _emit(self, name: str) -> None:
        try:
            whole = total(self._parts.pop(name), self.rows, self._shapes[name])
        except (RuntimeError, ValueError, IndexError) as error:  # contributions that do not go together
            self._fail(name, error)
            return
        self._emitted.add(name)
        if isinstance(whole, Outer):
            self._sink.outer(name, whole.output, whole.input)
        else:
            self._sink.dense(name, whole.gradient)

    def _fail(self, name: str, error: Exception) -> None:
        self.failures[name] = str(error)
        self._parts.pop(name, None)


class _Join(torch.autograd.Function):
    """A copy of a tensor that is part of the graph, so that a hook on it gets its gradient.

    A leaf would do, were it not for in-place activations, which autograd refuses on leaves and on views of them.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None
