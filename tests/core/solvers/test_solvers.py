"""Solvers against dense float64 linear algebra on the gradients of tiny models, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.core.capture.cover import cover
from pipeline.core.solvers import ekfac
from pipeline.core.solvers.cg import conjugate_gradients
from pipeline.core.solvers.lissa import lissa
from pipeline.core.solvers.products import RowGradients
from pipeline.errors import ConfigError
from tests.oracles import per_sample_gradients

ROWS = 24


class Tensors:
    """Rows of tensors side by side."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def batch(self, indices):
        return tuple(tensor[list(indices)] for tensor in self.tensors)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


def case(kind: str):
    """Model, rows, and the gradients of all rows by a loop, [n, P]."""
    stream = torch.Generator().manual_seed(1)
    torch.manual_seed(2)
    if kind == "mlp":
        model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(ROWS, 4, generator=stream)
    elif kind == "conv":
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3))
        x = torch.randn(ROWS, 1, 4, 4, generator=stream)
    else:
        model, x = Attentive(), torch.randn(ROWS, 3, 4, generator=stream)
    model, rows = model.double(), Tensors(x.double(), torch.randint(0, 3, (ROWS,), generator=stream))
    names = [name for name, _ in model.named_parameters()]
    return model, rows, names, per_sample_gradients(model, loss, rows.batch(range(ROWS)), ROWS, names)


class Attentive(nn.Module):
    """Attention, whose fast kernels cannot be differentiated twice."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(nn.functional.scaled_dot_product_attention(x, x, self.head.weight.mean() * x).mean(1))


@pytest.mark.parametrize("kind", ["mlp", "conv", "attention"])
@pytest.mark.parametrize("batch_rows", [7, 100])
def test_products_are_those_of_the_gradients_of_rows(kind, batch_rows):
    model, rows, names, gradients = case(kind)
    found = RowGradients(model, loss, rows, names, batch_rows)
    vectors = torch.randn(3, found.size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(found.dots(vectors), gradients @ vectors.T)
    torch.testing.assert_close(found.mean(), gradients.mean(0))
    torch.testing.assert_close(found.fisher(vectors[0]), gradients.T @ (gradients @ vectors[0]) / ROWS)
    torch.testing.assert_close(found.of([3, 5]).dots(vectors), gradients[[3, 5]] @ vectors.T)


def damped(gradients, damping):
    return gradients.T @ gradients / len(gradients) + damping * torch.eye(gradients.shape[1], dtype=torch.float64)


def test_conjugate_gradients_solve(seed=3):
    model, rows, names, gradients = case("mlp")
    operator, damping = RowGradients(model, loss, rows, names, 10), 0.01
    vector = gradients[0]
    found = conjugate_gradients(lambda u: operator.fisher(u) + damping * u, vector, 1e-10, 200)
    torch.testing.assert_close(
        found.vector, torch.linalg.solve(damped(gradients, damping), vector), rtol=1e-7, atol=1e-9
    )
    assert found.residual <= 1e-10
    few = conjugate_gradients(lambda u: operator.fisher(u) + damping * u, vector, 1e-10, 3)
    rest = torch.linalg.norm(damped(gradients, damping) @ few.vector - vector) / vector.norm()
    assert few.products == 3 and few.residual == pytest.approx(float(rest), rel=1e-6)


def test_lissa_comes_close_within_its_depth_and_closer_with_more():
    model, rows, names, gradients = case("mlp")
    operator, damping, vector = RowGradients(model, loss, rows, names, 100), 0.05, gradients[0]
    exact = torch.linalg.solve(damped(gradients, damping), vector)
    errors = [
        float((lissa(operator, vector, damping, depth, repeats, 12, 0).vector - exact).norm() / exact.norm())
        for depth, repeats in ((20, 1), (400, 4))
    ]
    assert errors[1] < 0.15 < errors[0]
    whole = lissa(operator, vector, damping, 1500, 1, ROWS, 0)
    torch.testing.assert_close(whole.vector, exact, rtol=1e-3, atol=1e-4)
    assert whole.residual < 1e-3


def test_a_lissa_that_diverges_is_refused(monkeypatch):
    model, rows, names, gradients = case("mlp")
    monkeypatch.setattr("pipeline.core.solvers.lissa._scale", lambda *_: 1e-3)
    with pytest.raises(ConfigError, match="expected LiSSA to converge"):
        lissa(RowGradients(model, loss, rows, names, 100), gradients[0], 0.05, 500, 1, 12, 0)


def oracle(gradients, shapes, factors, corrected, damping):
    """The factored matrix by its definition, block by block, dense: [P, P]."""
    out, first = torch.zeros(gradients.shape[1], gradients.shape[1], dtype=torch.float64), 0
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        own, place = gradients[:, first : first + size], slice(first, first + size)
        first += size
        if name not in factors:  # a bias: its exact block
            block = own.T @ own / len(own)
            q, scales = torch.linalg.eigh(block)[1], torch.linalg.eigvalsh(block)
        else:
            a, s = factors[name]
            (e_a, q_a), (e_s, q_s) = torch.linalg.eigh(a), torch.linalg.eigh(s)
            q = torch.kron(q_s, q_a)
            scales = torch.kron(e_s, e_a) if not corrected else (own @ q).square().mean(0)
        out[place, place] = q @ torch.diag(scales + damping * scales.mean()) @ q.T
    return out


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_factored_matrices_are_what_their_definition_says(kind, corrected):
    model, rows, names, gradients = case(kind)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    engine = cover(model, loss, tuple(names), rows.batch([0, 1]), "auto").engine
    parts = [(rows.batch(range(start, start + 8)), 8) for start in range(0, ROWS, 8)]
    found = ekfac.fit(engine, parts, shapes, corrected)
    factors = sides(model, rows)
    wanted = oracle(gradients, shapes, factors, corrected, 0.3)
    for vector in gradients[:3]:
        torch.testing.assert_close(found.solve(vector, 0.3), torch.linalg.solve(wanted, vector), rtol=1e-6, atol=1e-9)
    forms = (gradients * torch.linalg.solve(wanted, gradients.T).T).sum(1)
    torch.testing.assert_close(found.forms(engine, parts, 0.3), forms, rtol=1e-6, atol=1e-9)
    without = oracle(gradients, shapes, factors, corrected, 0.0)
    solved = torch.linalg.solve(wanted, gradients.T)
    means = ((without @ solved) * solved).sum(0)
    torch.testing.assert_close(found.forms(engine, parts, 0.3, mean=True), means, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_products_with_vectors_are_those_of_the_gradients(kind):
    model, rows, names, gradients = case(kind)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    engine = cover(model, loss, tuple(names), rows.batch([0, 1]), "auto").engine
    parts = [(rows.batch(range(start, start + 8)), 8) for start in range(0, ROWS, 8)]
    vectors = torch.randn(3, gradients.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    found = ekfac.fit(engine, parts, shapes, True).products(engine, parts, vectors)
    torch.testing.assert_close(found, gradients @ vectors.T, rtol=1e-10, atol=1e-12)


def sides(model, rows):
    """A and S of every weight, from inputs and output gradients that autograd gives."""
    kept = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: kept.update({name: (inputs[0], output)}))
        for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    ]  # fmt: skip
    losses = loss(model, rows.batch(range(ROWS)))
    found = {}
    for name, (inputs, output) in kept.items():
        (grads,) = torch.autograd.grad(losses.sum(), output, retain_graph=True)
        if output.dim() == 4:
            inputs, grads = nn.functional.unfold(inputs, 3).mT, grads.flatten(2).mT
        else:
            inputs, grads = inputs[:, None], grads[:, None]
        a = torch.einsum("bti,btj->ij", inputs, inputs) / ROWS
        found[f"{name}.weight"] = a.detach(), torch.einsum("bto,btp->op", grads, grads) / grads.shape[1] / ROWS
    for hook in hooks:
        hook.remove()
    return found


def test_products_are_written_out_for_a_few_rows_at_a_time(monkeypatch):
    model, rows, names, gradients = case("conv")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    engine = cover(model, loss, tuple(names), rows.batch([0, 1]), "auto").engine
    parts = [(rows.batch(range(ROWS)), ROWS)]
    found = ekfac.fit(engine, parts, shapes, True)
    whole, vectors = found.forms(engine, parts, 0.3), torch.eye(gradients.shape[1], dtype=torch.float64)[:9]
    products = found.products(engine, parts, vectors)
    monkeypatch.setattr(ekfac, "BLOCK_BYTES", 1)
    torch.testing.assert_close(found.forms(engine, parts, 0.3), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.products(engine, parts, vectors), products, rtol=1e-12, atol=0)


def test_a_long_vector_has_a_diagonal_and_a_side_too_long_is_refused(monkeypatch):
    model, rows, names, gradients = case("mlp")
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    engine = cover(model, loss, tuple(names), rows.batch([0, 1]), "auto").engine
    monkeypatch.setattr(ekfac, "BLOCK", 4)
    found = ekfac.fit(engine, [(rows.batch(range(ROWS)), ROWS)], shapes, True)
    bias, squares = gradients[:, 20:25], gradients[:, 20:25].square().mean(0)
    torch.testing.assert_close(found.solve(gradients[0], 0.5)[20:25], bias[0] / (squares + 0.5 * squares.mean()))
    forms = torch.stack([row @ found.solve(row, 0.5) for row in gradients])
    torch.testing.assert_close(found.forms(engine, [(rows.batch(range(ROWS)), ROWS)], 0.5), forms)
    monkeypatch.setattr(ekfac, "LONGEST", 4)
    with pytest.raises(ConfigError, match="expected sides of at most 4 numbers for K-FAC and EK-FAC, got 5"):
        ekfac.fit(engine, [(rows.batch(range(ROWS)), ROWS)], shapes, True)
