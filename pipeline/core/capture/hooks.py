"""The hook engine: all per-sample gradients from one batched forward and backward pass.

The gradient of a layer that is linear in its weight is an outer product of the layer's input and the gradient of its
output, and both pass by in a batched pass: forward hooks keep the inputs, tensor hooks on the outputs get the gradients
of the summed loss, in whose b-th row only l_b is felt. The parameters' own gradients are off, so that the backward pass
is cheaper than that of training. The formulas a layer are in `formulas`.

A parameter's contributions are summed over all its uses in the forward pass (tied weights, a module that is called
twice) and handed to the sink as soon as the last has arrived; nothing is kept beyond.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.core.capture.attention import attend
from pipeline.core.capture.batches import batch_size
from pipeline.core.capture.engine import Loss
from pipeline.core.capture.formula import Formula, Outer, Part, total
from pipeline.core.capture.state import Held, check_losses
from pipeline.core.capture.uses import Attention, Layout, Use, attentions, servable, uses
from pipeline.core.sink import Sink
from pipeline.errors import TaskError


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
        wanted = frozenset(names).difference(unused)
        self._uses, self._attentions = uses(model, wanted, layouts or {}), attentions(model, wanted)
        self._shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._unused = {name: parameter for name, parameter in model.named_parameters() if name in unused}
        self._held = Held(model, unused)

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
        with self._held.capturing(), run.hooked(self._uses, self._attentions):
            losses = self._loss(self._model, batch)
            check_losses(losses, run.rows)
            if losses.requires_grad:
                sources = [run.anchor, *self._unused.values()]
                _, *found = torch.autograd.grad(losses.sum(), sources, allow_unused=True)
                used = [name for name, gradient in zip(self._unused, found, strict=True) if gradient is not None]
                run.failures.update(dict.fromkeys(used, "the loss depends on it now and did not then"))
        run.finish(self.names, losses)
        return losses.detach(), run.fired, run.failures


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
    def hooked(self, uses: Sequence[Use], attentions: Sequence[Attention]) -> Iterator[None]:
        """Hooks on all uses, and attention layers with their projections in view, until the end."""
        handles = [
            use.module.register_forward_hook(self._forward_hook(use), prepend=True, with_kwargs=True) for use in uses
        ]
        try:
            for attention in attentions:
                vars(attention.module)["forward"] = self._attended(attention)  # before the class's own
            yield
        finally:
            for handle in handles:
                handle.remove()
            for attention in attentions:
                vars(attention.module).pop("forward", None)

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
            return self._watched(use, input, output)

        return hook

    def _attended(self, attention: Attention) -> Callable[..., Any]:
        module, names = attention.module, attention.names

        def watch(role: str, formula: Formula, input: Tensor, output: Tensor) -> Tensor:
            use = Use(module, formula, names.get(role), names.get("in_proj_bias"), "rows")
            return self._watched(use, input.detach(), output)

        def forward(query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any) -> Any:
            if query.dim() != 3:  # no batch
                return type(module).forward(module, query, key, value, *args, **options)
            return attend(module, watch, query, key, value, *args, **options)

        return forward

    def _watched(self, use: Use, input: Tensor | None, output: Tensor) -> Tensor:
        """The output, with a hook on its gradient."""
        if not output.requires_grad:
            output = _Join.apply(output, self.anchor)
        names = [name for name in (use.weight, use.bias) if name]
        self.fired.update(names)
        self._pending.update(names)
        kept = [input]  # emptied on arrival: the hook itself lives as long as the graph
        output.register_hook(lambda gradient: self._arrive(use, kept.pop(), gradient.detach()))
        return output

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
    """A tensor made part of the graph, so that a hook on it gets its gradient; a view is copied.

    A leaf would do, were it not for in-place activations, which autograd refuses on leaves and on views of them.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, anchor: Tensor) -> Tensor:
        if output._is_view():
            return output.clone()
        ctx.mark_dirty(output)  # as if it had been changed in place: the same memory with another history
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None
