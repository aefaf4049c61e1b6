"""Cover a model parameter by parameter: hooks where they are proven right, `torch.func` for the rest.

The proof is a comparison with `torch.autograd.grad`, row by row, on a probe of a few rows. It is made on a stand-in: a
copy of the model in float64, each parameter perturbed a little, so that saturated losses, dead units and layers that
are zero at the start do not make a wrong gradient look right or a right one wrong. It is where the model is, or on the
CPU where the model's device has no float64. Where the model does not run in float64, or not on the CPU, the copy has
the model's precision and device; where it cannot be copied or perturbed, the model stands for itself.

A gradient [B, ...] of a parameter agrees when its Frobenius distance from the true one is within `TOLERANCE` of the
latter's norm, or of the `FLOOR`-th part of the norm over all parameters, below which rounding decides.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.core.capture import batches
from pipeline.core.capture.afford import Afford, proof_bytes, unlimited
from pipeline.core.capture.contract import check_loss
from pipeline.core.capture.engine import Engine, Loss
from pipeline.core.capture.functional import FunctionalEngine
from pipeline.core.capture.hooks import HookEngine
from pipeline.core.capture.state import capturing
from pipeline.core.capture.uses import Layout, servable
from pipeline.core.device import has_float64
from pipeline.core.factors import BLOCK_BYTES, Factor, blocks, precise
from pipeline.core.sink import Sink
from pipeline.errors import InputError, TaskError

Choice = Literal["auto", "hooks", "functional"]
LAYOUTS: tuple[Layout, ...] = ("rows", "shared", "second")
TOLERANCE = {torch.float64: 1e-6}
FLOOR = {torch.float64: 1e-6}
COARSE = 1e-3  # both of them in any lower precision
PERTURBATION = 0.1  # of a parameter's root mean square,
PERTURBATION_AT_LEAST = 0.01  # and of one


@dataclass(frozen=True)
class Coverage:
    """Which engine serves which parameter.

    Attributes:
        engine: captures all of them.
        served: parameter -> "hooks" or "functional", in the order asked for.
    """

    engine: Engine
    served: dict[str, str]


class CombinedEngine:
    """Two engines with different parameters as one; the losses are the first one's.

    Attributes:
        names: the parameters of both.
    """

    def __init__(self, first: Engine, second: Engine) -> None:
        """Combine two engines."""
        self.names = first.names + second.names
        self._first, self._second = first, second

    def capture(self, batch: Any, sink: Sink) -> Tensor:
        """Feed the gradients of `batch` to `sink` and return the losses, [B]."""
        losses = self._first.capture(batch, sink)
        self._second.capture(batch, sink)
        return losses


def cover(
    model: nn.Module, loss: Loss, names: Sequence[str], probe: Any, engine: Choice = "auto", afford: Afford = unlimited
) -> Coverage:
    """Choose the engine for a model.

    Args:
        model: the model; it is left as it was.
        loss: (model, batch) -> [B].
        names: parameters to capture, as in `model.named_parameters()`.
        probe: a batch of a few rows, at least two where there are as many; its true gradients, B x P numbers, are held.
        engine: "auto": hooks where they agree with autograd; "hooks": an error where they do not; "functional".
        afford: asked before the stand-in is made, and before all true gradients are: about no more than the proof
            then takes for certain, whatever the model is.

    Returns:
        The engine, and what serves each parameter.

    Raises:
        TaskError: unknown parameters, a loss of another shape than [B], losses that are all not finite, rows that look
            at each other, a loss that depends on no parameter, or parameters that hooks do not serve with "hooks".
    """
    _check_names(model, names)
    afford(proof_bytes(model, names))
    finite = check_loss(model, loss, probe).isfinite()
    telling = batches.select(probe, finite.nonzero().flatten().tolist(), len(finite))
    truth = _truth(model, loss, names, telling, afford)
    layouts: dict[str, Layout] = {} if engine == "functional" else _verified(truth)
    unused = [] if engine == "functional" else sorted(truth.unused)
    by_hooks = [name for name in names if name in layouts or name in unused]
    rest = [name for name in names if name not in by_hooks]
    if rest and engine == "hooks":
        raise TaskError(
            f"expected parameters that hooks serve, got {', '.join(rest)}: use engine=auto, "
            "or leave these parameters out"
        )
    served = {name: "functional" if name in rest else "hooks" for name in names}
    engines: list[Engine] = []
    if by_hooks:
        engines.append(HookEngine(model, loss, by_hooks, layouts, unused))
    if rest:
        engines.append(FunctionalEngine(model, loss, rest, mode=_mode(truth, rest)))
    return Coverage(engines[0] if len(engines) == 1 else CombinedEngine(*engines), served)


@dataclass(frozen=True)
class _Truth:
    """The stand-in and its true gradients.

    Attributes:
        model: the stand-in.
        loss: as given.
        batch: the probe in the stand-in's precision.
        gradients: name -> [B, *shape], by autograd row by row.
        unused: names that the loss of no row depends on.
        scale: norm of all gradients, squared sums over rows and parameters.
    """

    model: nn.Module
    loss: Loss
    batch: Any
    gradients: dict[str, Tensor]
    unused: frozenset[str]
    scale: float

    def agrees(self, name: str, pieces: Iterable[tuple[int, Tensor]]) -> bool:
        """Whether a captured gradient is right.

        Args:
            name: of the parameter.
            pieces: where in the flattened parameter they begin, ascending, and entries [B, n]; all others are zero.
        """
        true = self.gradients[name].flatten(1)
        tolerance, floor = (TOLERANCE.get(true.dtype, COARSE), FLOOR.get(true.dtype, COARSE))
        error, done = 0.0, 0
        for start, entries in pieces:
            stop = start + entries.shape[1]
            error += _square(true[:, done:start]) + _square(precise(entries) - precise(true[:, start:stop]))
            done = stop
        error += _square(true[:, done:])
        return error**0.5 <= tolerance * max(_square(true) ** 0.5, floor * self.scale)


def _square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(precise(values))) ** 2


class _Judge:
    """A sink that tells which gradients are right; a few entries at a time, for the true ones are many already."""

    def __init__(self, truth: _Truth) -> None:
        self.right: set[str] = set()
        self._truth = truth

    def dense(self, name: str, gradient: Tensor) -> None:
        flat = gradient.flatten(1)
        step = max(1, BLOCK_BYTES // max(1, flat[:, :1].nbytes))
        self._judge(name, ((i * step, piece) for i, piece in enumerate(flat.split(step, dim=1))))

    def outer(self, name: str, output: Factor, input: Factor) -> None:
        self._judge(name, blocks(output, input))

    def _judge(self, name: str, pieces: Iterable[tuple[int, Tensor]]) -> None:
        if self._truth.agrees(name, pieces):
            self.right.add(name)


def _check_names(model: nn.Module, names: Sequence[str]) -> None:
    known = dict(model.named_parameters())
    unknown = [name for name in names if name not in known]
    if not names or unknown:
        given = ", ".join(unknown) or "none"
        raise TaskError(f"expected names of parameters, got {given}: see model.named_parameters()")


def _truth(model: nn.Module, loss: Loss, names: Sequence[str], probe: Any, afford: Afford) -> _Truth:
    """The true gradients, of the most telling stand-in on which the loss runs."""
    for exact in (True, False):
        try:
            batch = batches.convert(probe, _in_float64) if exact else probe
            truth = _measured(_stand_in(model, exact), loss, names, batch, afford)
        except InputError:
            raise
        except Exception:
            continue
        if isfinite(truth.scale):  # or a perturbed parameter left its domain
            return truth
    return _measured(model, loss, names, probe, afford)


def _stand_in(model: nn.Module, exact: bool) -> nn.Module:
    """A perturbed copy of the model, in float64 if so asked; the noise is the same each time."""
    twin = copy.deepcopy(model)
    if exact:
        twin = (twin if has_float64(next(twin.parameters()).device) else twin.cpu()).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            if parameter.is_floating_point():
                size = max(PERTURBATION * float(parameter.square().mean().sqrt()), PERTURBATION_AT_LEAST)
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(size * noise.to(parameter))
    return twin


def _in_float64(values: Tensor) -> Tensor:
    values = values if has_float64(values.device) else values.cpu()
    return values.double() if values.is_floating_point() else values


def _measured(model: nn.Module, loss: Loss, names: Sequence[str], batch: Any, afford: Afford) -> _Truth:
    """Gradients by autograd, one row at a time."""
    size = batches.batch_size(batch)
    parameters = dict(model.named_parameters())
    found: dict[str, list[Tensor | None]] = {name: [] for name in names}
    with capturing(model, names):
        for i in range(size):
            losses = loss(model, batches.rows(batch, i, i + 1, size))
            for name, gradient in zip(names, _gradients(losses, [parameters[n] for n in names]), strict=True):
                found[name].append(gradient)
            if i == 0:  # those of all rows will be there in the end, of a row that has none as zeros
                held = sum(own.nbytes for (own,) in found.values() if own is not None)
                afford(size * sum(parameters[name].nbytes for name in names) - held)
    unused = frozenset(name for name, rows in found.items() if all(row is None for row in rows))
    if len(unused) == len(names):
        raise TaskError(
            "expected a loss that depends on the parameters, got one that does not: no detach(), no_grad() or .item() "
            "may stand between, and the model must be the one given to `loss`"
        )
    gradients: dict[str, Tensor] = {}
    for name in names:  # a parameter's rows go as soon as they are stacked
        rows = [torch.zeros_like(parameters[name]) if row is None else row for row in found.pop(name)]
        gradients[name] = torch.stack(rows).detach()
    scale = sum(map(_square, gradients.values())) ** 0.5
    return _Truth(model, loss, batch, gradients, unused, scale)


def _gradients(losses: Tensor, parameters: list[Tensor]) -> Sequence[Tensor | None]:
    if not losses.requires_grad:
        return [None] * len(parameters)
    return torch.autograd.grad(losses.sum(), parameters, allow_unused=True)


def _verified(truth: _Truth) -> dict[str, Layout]:
    """The layout under which hooks serve each parameter rightly; without those that they serve under none."""
    layouts: dict[str, Layout] = {}
    candidates = servable(truth.model)
    left = [name for name in truth.gradients if name in candidates and name not in truth.unused]
    for layout in LAYOUTS:
        layouts.update(dict.fromkeys(_agreeing(truth, left, dict.fromkeys(left, layout)), layout))
        left = [name for name in left if name not in layouts]
    for layout in LAYOUTS[1:]:  # one by one, since what needs another layout breaks the pass for its neighbours
        layouts.update({name: layout for name in left if _agreeing(truth, [name], {name: layout})})
        left = [name for name in left if name not in layouts]
    agreeing = _agreeing(truth, list(layouts), layouts)  # once more together: layouts meet in a module or a tied weight
    return {name: layouts[name] for name in agreeing}


def _agreeing(truth: _Truth, names: list[str], layouts: Mapping[str, Layout]) -> list[str]:
    """Those of `names` whose gradients by hooks are right."""
    if not names:
        return []
    judge = _Judge(truth)
    try:
        _, fired, _ = HookEngine(truth.model, truth.loss, names, layouts).attempt(truth.batch, judge)
    except Exception:
        return []
    return [name for name in names if fired[name] and name in judge.right]


def _mode(truth: _Truth, names: list[str]) -> Literal["vmap", "loop"]:
    """Whether vmap gets through and agrees with autograd."""
    engine = FunctionalEngine(truth.model, truth.loss, names)
    judge = _Judge(truth)
    engine.capture(truth.batch, judge)
    return "vmap" if engine.mode == "vmap" and judge.right.issuperset(names) else "loop"
