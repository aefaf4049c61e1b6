"""Whatever serves a parameter, its gradients are those of a loop over autograd."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.capture.cover import _Truth, cover
from pipeline.core.memory import Watch
from pipeline.core.projection import make
from pipeline.errors import CapacityError, TaskError
from tests.core.capture.models import ROWS, TABLE, Problem, classify, problem, tokens
from tests.oracles import per_sample_gradients, row_of


def names_of(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def captured(problem: Problem, batch: Any, rows: int, choice: Any = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Gradients [B, P], their squared norms and the losses."""
    names = names_of(problem.model)
    shapes = {name: tuple(p.shape) for name, p in problem.model.named_parameters()}
    coverage = cover(problem.model, problem.loss, names, problem.batch, choice)
    sketch = make("identity", shapes, 1, 0).sketch(rows, torch.float64)
    losses = coverage.engine.capture(batch, sketch)
    return sketch.codes(), sketch.squared_norms(), losses


@pytest.mark.parametrize("choice", ["auto", "functional"])
@pytest.mark.parametrize("name", TABLE)
def test_equals_autograd_row_by_row(name: str, choice: str) -> None:
    case = problem(name)
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names_of(case.model))
    codes, squares, losses = captured(case, case.batch, ROWS, choice)
    assert true.abs().max() > 1e-3
    torch.testing.assert_close(codes, true, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(squares, true.square().sum(1), rtol=1e-10, atol=1e-14)
    case.model.eval()
    torch.testing.assert_close(losses, case.loss(case.model, case.batch).detach(), rtol=1e-10, atol=1e-12)
    assert not losses.requires_grad


@pytest.mark.parametrize("name", TABLE)
def test_hooks_serve_what_they_can(name: str) -> None:
    case = problem(name)
    coverage = cover(case.model, case.loss, names_of(case.model), case.batch)
    assert list(coverage.served) == names_of(case.model)
    assert [n for n, engine in coverage.served.items() if engine == "functional"] == sorted(
        case.functional, key=names_of(case.model).index
    )
    assert set(coverage.engine.names) == set(names_of(case.model))


@pytest.mark.parametrize("name", TABLE)
def test_batch_size_does_not_matter(name: str) -> None:
    case = problem(name)
    shapes = {name: tuple(p.shape) for name, p in case.model.named_parameters()}
    engine = cover(case.model, case.loss, names_of(case.model), case.batch).engine
    identity = make("identity", shapes, 1, 0)
    whole, alone = (identity.sketch(ROWS, torch.float64), identity.sketch(1, torch.float64))
    engine.capture(case.batch, whole)
    engine.capture(row_of(case.batch, ROWS - 1), alone)
    torch.testing.assert_close(alone.codes()[0], whole.codes()[-1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["norms", "language model, tied directly", "attention"])
def test_float32_is_close(name: str) -> None:
    case = problem(name)
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names_of(case.model))
    model = case.model.float()
    if isinstance(case.batch, dict):
        batch: Any = {key: t.float() if t.is_floating_point() else t for key, t in case.batch.items()}
    else:
        batch = tuple(t.float() if t.is_floating_point() else t for t in case.batch)
    single = Problem(model, case.loss, batch, case.functional)
    served = cover(model, case.loss, names_of(model), batch).served
    assert {n for n, engine in served.items() if engine == "functional"} == set(case.functional)
    codes, _, _ = captured(single, batch, ROWS)
    torch.testing.assert_close(codes, true, rtol=1e-4, atol=1e-5)


def test_saturated_losses_do_not_scare_hooks_away() -> None:
    """At a memorised checkpoint, 1 - p is all rounding in float32: the proof is made elsewhere."""
    case = problem("mlp")
    model = case.model.float()
    with torch.no_grad():
        model[2].weight *= 100
        model[2].bias *= 100
    batch = (case.batch[0].float(), model(case.batch[0].float()).argmax(1))
    assert set(cover(model, classify, names_of(model), batch).served.values()) == {"hooks"}


def test_vanishing_gradients_prove_nothing() -> None:
    """Behind weights of zero any layout looks right; it must still be right once they have moved."""
    case = problem("sequence first")
    torch.nn.init.zeros_(case.model.b.weight)
    names = names_of(case.model)
    engine = cover(case.model, case.loss, names, case.batch).engine
    torch.nn.init.ones_(case.model.b.weight[0])
    shapes = {name: tuple(p.shape) for name, p in case.model.named_parameters()}
    sketch = make("identity", shapes, 1, 0).sketch(ROWS, torch.float64)
    engine.capture(case.batch, sketch)
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names)
    torch.testing.assert_close(sketch.codes(), true, rtol=1e-10, atol=1e-12)


def test_a_single_row_is_enough() -> None:
    case = problem("language model")
    single = row_of(case.batch, 0)
    coverage = cover(case.model, case.loss, names_of(case.model), single)
    true = per_sample_gradients(case.model, case.loss, single, 1, names_of(case.model))
    shapes = {name: tuple(p.shape) for name, p in case.model.named_parameters()}
    sketch = make("identity", shapes, 1, 0).sketch(1, torch.float64)
    coverage.engine.capture(single, sketch)
    torch.testing.assert_close(sketch.codes(), true, rtol=1e-10, atol=1e-12)


def test_some_parameters_only() -> None:
    case = problem("language model, tied directly")
    names = ["up.bias", "words.weight"]
    coverage = cover(case.model, case.loss, names, case.batch)
    assert coverage.served == {"up.bias": "hooks", "words.weight": "functional"}
    shapes = {name: tuple(dict(case.model.named_parameters())[name].shape) for name in names}
    sketch = make("identity", shapes, 1, 0).sketch(ROWS, torch.float64)
    coverage.engine.capture(case.batch, sketch)
    true = per_sample_gradients(case.model, case.loss, case.batch, ROWS, names)
    torch.testing.assert_close(sketch.codes(), true, rtol=1e-10, atol=1e-12)


def test_a_row_that_is_not_finite_does_not_spoil_the_proof() -> None:
    case = problem("mlp")
    inputs = case.batch[0].clone()
    inputs[1] = float("nan")
    assert set(cover(case.model, case.loss, names_of(case.model), (inputs, case.batch[1])).served.values()) == {"hooks"}


def test_the_model_is_left_as_it_was() -> None:
    case = problem("dropout, unused")
    case.model.train()
    case.model.body[1].eval()
    case.model.body[0].weight.requires_grad_(False)
    before = {name: p.clone() for name, p in case.model.named_parameters()}
    names = names_of(case.model)
    coverage = cover(case.model, case.loss, names, case.batch)
    for broken in (False, True):
        sketch = make("identity", {name: tuple(p.shape) for name, p in before.items()}, 1, 0).sketch(ROWS)
        if broken:
            with pytest.raises(RuntimeError):
                coverage.engine.capture((case.batch[0][:, :2], case.batch[1]), sketch)
        else:
            coverage.engine.capture(case.batch, sketch)
        assert case.model.training and not case.model.body[1].training and case.model.body[2].training
        assert [p.requires_grad for p in case.model.parameters()] == [False] + [True] * (len(names) - 1)
        assert all(torch.equal(p, before[name]) and p.grad is None for name, p in case.model.named_parameters())
        assert not any(module._forward_hooks for module in case.model.modules())
        assert torch.backends.mha.get_fastpath_enabled()


def test_hooks_alone_name_what_they_cannot_serve() -> None:
    case = problem("LSTM")
    with pytest.raises(
        TaskError, match="expected parameters that hooks serve, got recurrent.weight_ih_l0, .*engine=auto"
    ):
        cover(case.model, case.loss, names_of(case.model), case.batch, "hooks")
    assert set(cover(case.model, case.loss, ["head.weight"], case.batch, "hooks").served.values()) == {"hooks"}


def test_an_unused_parameter_that_is_used_later_is_told() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.often, self.rarely = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.often(x) + (self.rarely(x) if bool((x > 100).any()) else 0)

    model = Net()
    x, y = torch.rand(2, 3), torch.tensor([0, 1])
    coverage = cover(model, classify, names_of(model), (x, y))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    with pytest.raises(
        TaskError, match="see the batch as it did before, got rarely.weight: the loss depends on it now"
    ):
        coverage.engine.capture((x + 200, y), make("identity", shapes, 1, 0).sketch(2))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda m, b: F.cross_entropy(m(b[0]), b[1]), r"expected a loss of shape \[B\] = \[5\], got \[\]"),
        (lambda m, b: classify(m, b)[:, None], r"expected a loss of shape \[B\] = \[5\], got \[5, 1\]"),
        (lambda m, b: classify(m, b) * float("nan"), "expected finite losses, got .*nan.* for all probe rows"),
        (lambda m, b: classify(m, b) - classify(m, b).mean(), "no row may look at another"),
        (lambda m, b: classify(m, b).detach(), "expected a loss that depends on the parameters, got one that does not"),
    ],
)
@pytest.mark.parametrize("choice", ["auto", "functional", "hooks"])
def test_a_loss_that_breaks_the_contract(loss: Any, message: str, choice: Any) -> None:
    case = problem("mlp")
    with pytest.raises(TaskError, match=message):
        cover(case.model, loss, names_of(case.model), case.batch, choice)


def test_unknown_parameters_are_named() -> None:
    case = problem("mlp")
    with pytest.raises(TaskError, match="expected names of parameters, got 9.weight"):
        cover(case.model, case.loss, ["0.weight", "9.weight"], case.batch)
    with pytest.raises(TaskError, match="expected names of parameters, got none"):
        cover(case.model, case.loss, [], case.batch)


def test_a_wrong_formula_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof is no formality: halve the bias of Linear, and it goes to the functional engine."""
    from pipeline.core.capture.layers import Dense, LinearFormula

    monkeypatch.setattr(LinearFormula, "bias", lambda self, module, gradient, rows: Dense(gradient.sum(1) / 2))
    case = problem("language model")
    served = cover(case.model, case.loss, names_of(case.model), tokens()).served
    assert {name for name, engine in served.items() if engine == "functional"} == {"up.bias", "down.bias"}


def test_a_loss_that_fails_on_a_single_row_is_told() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(
        TaskError, match="expected a loss that takes a batch of one, got ValueError: Expected more than 1"
    ):
        cover(model, classify, names_of(model), (torch.randn(4, 4), torch.tensor([0, 1, 2, 0])))


class Awkward(nn.Module):
    """A model that runs in float32 only, cannot be copied, or has a parameter that no perturbation may touch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.layer, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.tiny = nn.Parameter(torch.full((5,), 1e-12))

    def __deepcopy__(self, memo: object) -> nn.Module:
        if self.kind == "copy":
            raise TypeError("cannot be copied")
        twin = Awkward(self.kind)
        twin.load_state_dict(self.state_dict())
        return twin

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.layer(x.float() if self.kind == "precision" else x))
        return self.head(x + (self.tiny.log() if self.kind == "domain" else self.tiny))


@pytest.mark.parametrize("kind", ["precision", "copy", "domain"])
def test_models_that_are_awkward_to_copy(kind: str) -> None:
    torch.manual_seed(0)
    model = Awkward(kind)
    served = cover(model, classify, names_of(model), (torch.randn(3, 4), torch.tensor([0, 1, 2]))).served
    assert [name for name, engine in served.items() if engine == "functional"] == ["tiny"]


class Wide(Awkward):
    """The same in float32 and large enough to be counted; "unused": half of its parameters are."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.layer, self.spare = nn.Linear(4, 5), nn.Linear(2000, 500)
        self.wide = nn.Linear(2000, 500)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        if self.kind == "copy":
            raise TypeError("cannot be copied")
        twin = Wide(self.kind)
        for name, own in self.named_parameters():
            module, _, last = name.rpartition(".")
            setattr(twin.get_submodule(module), last, copy.deepcopy(own, memo))
        return twin

    def forward(self, x: Tensor) -> Tensor:
        wide = x.repeat(1, 500).to(self.wide.weight.dtype if self.kind != "precision" else torch.float32)
        hidden = self.wide(wide) if self.kind == "unused" else self.wide(wide) + self.spare(wide)
        return super().forward(x) + hidden.sum(1, keepdim=True)


def test_a_gradient_is_right_when_all_its_pieces_are_and_nothing_is_missing() -> None:
    torch.manual_seed(0)
    true = torch.randn(2, 3, 4, dtype=torch.float64)
    true[:, 1] = 0
    truth = _Truth(nn.Identity(), classify, None, {"weight": true}, frozenset(), 1.0)
    first, zeros, last = ((4 * i, true[:, i]) for i in range(3))
    assert truth.agrees("weight", [first, zeros, last]) and truth.agrees("weight", [first, last])
    assert truth.agrees("weight", [(0, true.flatten(1))])
    for wrong in ([], [first], [first, zeros], [zeros, last], [first, (4, last[1])], [first, (8, last[1] + 1e-5)]):
        assert not truth.agrees("weight", wrong)
    assert not truth.agrees("weight", [first, (8, last[1] * torch.nan)])


@pytest.mark.parametrize("kind", ["plain", "precision", "copy", "domain", "unused"])
def test_no_more_is_asked_for_than_the_proof_then_holds(kind: str) -> None:
    torch.manual_seed(0)
    model, batch = Wide(kind), (torch.randn(2, 4), torch.tensor([0, 1]))
    size = sum(own.numel() for own in model.parameters())
    cover(model, classify, names_of(model), batch)  # what is imported when first used is no part of it
    asked, foreseen = [], []
    with Watch() as watch:

        def afford(coming: int) -> None:
            peaks.append(watch.mapped_peak)
            watch.restart()
            asked.append(coming)
            foreseen.append(watch.mapped_peak + coming)

        peaks: list[int] = []
        cover(model, classify, names_of(model), batch, afford=afford)
        peaks.append(watch.mapped_peak)
    for i, bytes_foreseen in enumerate(foreseen):
        assert bytes_foreseen <= max(peaks[i + 1 :]) + 2**16  # what Python itself allocates
    used = size - (sum(own.numel() for own in model.spare.parameters()) if kind == "unused" else 0)
    rows = [8 * size, (2 * size - used) * 8]
    own = rows if kind in ("plain", "unused") else [4 * size] if kind == "copy" else [8 * size]
    assert asked[: len(own)] == own
    if kind == "plain":
        assert max(foreseen) > 0.6 * max(peaks)  # 24 of 32 P beside weights


def test_a_proof_that_cannot_be_afforded_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(coming: int) -> None:
        if coming > allowed:
            raise CapacityError(f"{coming} bytes")

    case, allowed = problem("language model"), 0
    with monkeypatch.context() as patch, pytest.raises(CapacityError):
        patch.setattr("pipeline.core.capture.cover._stand_in", lambda *_: pytest.fail("copied"))
        patch.setattr("pipeline.core.capture.cover.check_loss", lambda *_: pytest.fail("run"))
        cover(case.model, case.loss, names_of(case.model), tokens(), afford=refuse)
    allowed = sum(own.nbytes for own in case.model.parameters())  # for the copy, not for gradients of all rows
    with pytest.raises(CapacityError):
        cover(case.model, case.loss, names_of(case.model), tokens(), afford=refuse)
