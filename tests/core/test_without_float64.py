"""What computes in float64 does without it on a device that has none: a stand-in for MPS, which refuses as MPS does."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.capture.batches import convert
from pipeline.core.capture.cover import cover
from pipeline.core.device import has_float64
from pipeline.core.perturbation import Asam, Lpf, Sam, Strategy, stream
from pipeline.core.projection import Settings, fitter, make
from pipeline.core.rows import Rows, row_losses
from pipeline.core.sharpness import filter_noise_rise, sam_rise, top_eigenvalue
from pipeline.core.solvers.products import RowGradients
from tests.core.capture.models import ROWS, Problem, classify, problem
from tests.oracles import per_sample_gradients
from tests.oracles_minimum import blobs, mlp, nll
from tests.without_float64 import CPU, without_float64

SERVED = [
    "mlp",
    "conv",
    "conv 1-D",
    "norms",
    "language model",
    "attention",
    "LSTM",
    "data-dependent",
    "zero at the start",
]


def placed(case: Problem, device: torch.device) -> Any:
    """Batch and model in float32 on a device."""
    case.model.float().to(device)
    return convert(case.batch, lambda t: (t.float() if t.is_floating_point() else t).to(device))


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_the_device_refuses_what_mps_refuses() -> None:
    with without_float64() as device:
        values = torch.ones(2).to(device)
        assert values.device == device and not has_float64(device) and has_float64(CPU)
        for refused in (
            lambda: values.double(),
            lambda: values.to(CPU, torch.float64),
            lambda: torch.zeros(2, dtype=torch.float64, device=device),
            lambda: torch.zeros_like(values, dtype=torch.float64),
            lambda: torch.ones(2, dtype=torch.float64).to(device),
        ):
            with pytest.raises(TypeError, match="Cannot convert a MPS Tensor to torch.float64"):
                refused()
        with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
            values + torch.ones(2)
        assert values.cpu().double().tolist() == [1, 1]


@pytest.mark.parametrize("name", SERVED)
def test_the_proof_is_made_in_float64_on_the_cpu(name: str) -> None:
    case, seen = problem(name), set()
    names, shapes = names_of(case.model), {n: tuple(p.shape) for n, p in case.model.named_parameters()}
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names)

    def watched(model: nn.Module, batch: Any) -> Tensor:
        losses = case.loss(model, batch)
        seen.add((losses.device.type, losses.dtype))
        return losses

    with without_float64() as device:
        batch = placed(case, device)
        coverage = cover(case.model, watched, names, batch)
        assert {n for n, engine in coverage.served.items() if engine == "functional"} == set(case.functional)
        assert seen == {("mps", torch.float32), ("cpu", torch.float64)}
        sketch = make("identity", shapes, 1, 0).sketch(ROWS, torch.float32, device)
        coverage.engine.capture(batch, sketch)
        codes, squares = sketch.codes(), sketch.squared_norms()
        assert codes.device == squares.device == device and {p.device for p in case.model.parameters()} == {device}
    torch.testing.assert_close(codes.inner.double(), true, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(squares.inner.double(), true.square().sum(1), rtol=1e-4, atol=1e-6)


def test_a_saturated_loss_does_not_scare_hooks_away() -> None:
    case = problem("mlp")
    with torch.no_grad():
        case.model[2].weight *= 100
        case.model[2].bias *= 100
    with without_float64() as device:
        inputs = placed(case, device)[0]
        batch = (inputs, case.model(inputs).argmax(1))
        assert set(cover(case.model, classify, names_of(case.model), batch).served.values()) == {"hooks"}


def test_a_loss_that_stays_on_the_device_is_proven_there() -> None:
    case = problem("mlp")
    with without_float64() as device:
        batch, weight = placed(case, device), torch.ones(3).to(device)

        def weighted(model: nn.Module, batch: Any) -> Tensor:
            return nn.functional.cross_entropy(model(batch[0]), batch[1], weight, reduction="none")

        assert set(cover(case.model, weighted, names_of(case.model), batch).served.values()) == {"hooks"}


def test_a_fitted_projection_gives_the_codes_that_it_gives_on_the_cpu() -> None:
    found = []
    for device in (None, "mps"):
        case = problem("mlp")
        with without_float64() as there:
            place = CPU if device is None else there
            batch, names = placed(case, place), names_of(case.model)
            engine = cover(case.model, case.loss, names, batch).engine
            work = fitter("eigenbasis", {n: tuple(p.shape) for n, p in case.model.named_parameters()}, 8, 0, Settings())
            while not work.done:
                with work.batch(ROWS, torch.float32, place) as sink:
                    engine.capture(batch, sink)
                work.end_pass()
            sketch = work.projection().sketch(ROWS, torch.float32, place)
            engine.capture(batch, sketch)
            found.append(sketch.codes().cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


class Placed:
    """Rows whose batches are on a device, in float32."""

    def __init__(self, rows: Rows, device: torch.device) -> None:
        self.rows, self.device = rows, device

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Any) -> Any:
        return convert(self.rows.batch(indices), lambda t: (t.float() if t.is_floating_point() else t).to(self.device))


def stepped(strategy: Strategy) -> Callable[[nn.Module, Rows], Tensor]:
    """Gradients of one step of a descent."""

    def measure(model: nn.Module, rows: Rows) -> Tensor:
        parameters, batch = list(model.parameters()), rows.batch(range(len(rows)))
        strategy.backward(parameters, [lambda: nll(model, batch).mean() / strategy.parts] * strategy.parts, 0, 1)
        return torch.cat([p.grad.flatten().cpu() for p in parameters if p.grad is not None])

    return measure


def products(model: nn.Module, rows: Rows) -> Tensor:
    gradients = RowGradients(model, nll, rows, names_of(model), 5)
    vectors = torch.randn(2, gradients.size, generator=stream(0), dtype=torch.float64)
    return torch.cat([gradients.dots(vectors).flatten(), gradients.mean()])


MEASURES: dict[str, Callable[[nn.Module, Rows], Tensor]] = {
    "losses": lambda model, rows: row_losses(model, nll, rows, 5),
    "SAM": stepped(Sam(0.1)),
    "ASAM": stepped(Asam(0.1)),
    "LPF-SGD": stepped(Lpf(0.1, 1.0, 2, 0)),
    "rise of SAM": lambda model, rows: torch.tensor(sam_rise(model, nll, rows, 0.5, 5)),
    "rise under noise": lambda model, rows: torch.tensor(filter_noise_rise(model, nll, rows, 0.5, 4, 0, 5).mean),
    "eigenvalue": lambda model, rows: torch.tensor(top_eigenvalue(model, nll, rows, 20, 1e-4, 0, 5).value),
    "products": products,
}


@pytest.mark.parametrize("name", MEASURES)
def test_what_is_measured_is_what_the_cpu_measures(name: str) -> None:
    model, points = mlp(0, [4, 5, 3]).float(), blobs(0, 12)
    expected = MEASURES[name](copy.deepcopy(model), Placed(points, CPU))
    with without_float64() as device:
        found = MEASURES[name](model.to(device), Placed(points, device))
    assert type(found) is Tensor
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
