"""Devices and precision, as far as a machine with a CPU alone can tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.capture.batches import convert
from pipeline.core.capture.cover import cover
from pipeline.core.capture.hooks import HookEngine
from pipeline.core.device import chosen, in_precision, settled
from pipeline.core.projection import Settings, fitter, make
from pipeline.errors import ConfigError
from tests.core.capture.models import ROWS, classify, problem


def test_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for cuda, mps in ((True, True), (False, True), (False, False)):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        found.append(chosen("auto").type)
    assert found == ["cuda", "mps", "cpu"]
    with pytest.raises(ConfigError, match="expected a device cuda, as compute.device says, got a machine or a torch"):
        chosen("cuda")


def test_auto_precision_is_bfloat16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for supported, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, s=supported: s)
        assert settled("auto", cuda) == expected
    assert (settled("auto", cpu), settled("bfloat16", cpu), settled("float32", cuda)) == (
        "float32",
        "bfloat16",
        "float32",
    )


def test_bfloat16_is_close_and_float64_is_left_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 32), nn.Tanh(), nn.Linear(32, 3))
    batch = (torch.randn(6, 2, 6, 6), torch.tensor([0, 1, 2, 0, 1, 2]))
    names = tuple(name for name, _ in model.named_parameters())
    projection = make("identity", {name: tuple(value.shape) for name, value in model.named_parameters()}, 1, 0)
    loss = in_precision(classify, torch.device("cpu"), "bfloat16")

    def codes(each, dtype: torch.dtype) -> Tensor:
        sketch = projection.sketch(6, dtype)
        given = convert(batch, lambda t: t.to(dtype) if t.is_floating_point() else t)
        losses = cover(model, each, names, given).engine.capture(given, sketch)
        assert losses.dtype == dtype
        return sketch.codes()

    exact, mixed = codes(classify, torch.float32), codes(loss, torch.float32)
    error = float((mixed - exact).norm() / exact.norm())
    assert 1e-3 < error < 0.05  # eight bits of precision, really used
    model.double()
    torch.testing.assert_close(codes(loss, torch.float64), codes(classify, torch.float64), rtol=1e-12, atol=1e-14)


def test_losses_that_end_in_half_precision_are_brought_to_single() -> None:
    model, rows = nn.Linear(4, 3), torch.randn(5, 4)
    loss = in_precision(lambda model, batch: model(batch).sum(1), torch.device("cpu"), "bfloat16")
    found, exact = loss(model, rows), model(rows).sum(1)
    assert found.dtype == torch.float32 and not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", ["mlp", "conv", "conv 1-D", "norms", "attention", "cross attention"])
@pytest.mark.parametrize("norms", ["exact", "estimated"])
def test_nothing_is_left_on_the_cpu(name: str, norms) -> None:
    """On the device of shapes without numbers, an operation between it and the CPU fails."""
    case = problem(name)
    shapes = {n: tuple(p.shape) for n, p in case.model.named_parameters() if n not in case.functional}
    work = fitter("eigenbasis", shapes, 40, 0, Settings(basis=4))
    while not work.done:
        with work.batch(ROWS, torch.float64) as sink:
            HookEngine(case.model, case.loss, list(shapes)).capture(case.batch, sink)
        work.end_pass()
    sketch = work.projection().sketch(ROWS, torch.float64, "meta", norms)
    batch = convert(case.batch, lambda tensor: tensor.to("meta"))
    with torch.device("meta"):  # tensors that a model makes itself
        HookEngine(case.model.to("meta"), case.loss, list(shapes)).capture(batch, sketch)
    assert sketch.codes().device.type == sketch.squared_norms().device.type == "meta"
