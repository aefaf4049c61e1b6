"""The fidelity benchmark: its measures against brute force, its truth against autograd, its models."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from benchmarks import fidelity
from benchmarks.fidelity import Answers, answers, budgets, compared, exact, measured, over_seeds, recall, spearman
from benchmarks.fidelity_models import ON_DIGITS, SIZES, STRIDE, Case, Text, trained
from pipeline.core.codec import fit_codec
from pipeline.core.projection import Projection
from pipeline.tasks.training import Recipe

ROWS = {"train": 60, "validation": 12, "query": 7}


@pytest.fixture
def case():
    """A network with random weights on random rows of three classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    splits = {split: (torch.randn(n, 6), torch.randint(3, (n,))) for split, n in ROWS.items()}
    return Case("net", model, lambda m, b: functional.cross_entropy(m(b[0]), b[1], reduction="none"), splits)


@pytest.fixture
def codes():
    draw = np.random.default_rng(1)
    return {split: draw.standard_normal((n, 30)) * draw.lognormal(size=(n, 1)) for split, n in ROWS.items()}


def brute_force(rows):
    curvature = rows["validation"].T @ rows["validation"] / len(rows["validation"])
    damping = np.trace(curvature) / len(rows["validation"])
    inverse = np.linalg.inv(curvature + damping * np.eye(len(curvature)))
    train, query = rows["train"], rows["query"]
    norms = np.outer(np.linalg.norm(query, axis=1), np.linalg.norm(train, axis=1))
    return Answers(query @ inverse @ train.T, query @ train.T / norms, np.einsum("ni,ij,nj->n", train, inverse, train))


def assert_same(found, expected, tolerance):
    for field in dataclasses.fields(Answers):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize("dimension", [5, 30])  # fewer coordinates than validation rows, and more
def test_answers_are_the_formulas_by_brute_force(codes, dimension):
    rows = {split: values[:, :dimension] for split, values in codes.items()}
    assert_same(answers(rows), brute_force(rows), 1e-12)


def test_rows_of_equal_products_give_equal_answers(codes):
    wide = {split: np.concatenate([values, values**2, np.sin(values)], 1) for split, values in codes.items()}
    wide["train"][5] *= 1e-9 / np.linalg.norm(wide["train"][5])
    narrow = fidelity.with_equal_products(wide)
    assert {split: rows.shape for split, rows in narrow.items()} == {split: (n, 79) for split, n in ROWS.items()}
    assert_same(answers(narrow), brute_force(wide), 1e-12)


def test_the_truth_is_that_of_a_loop_over_autograd(case):
    model = case.model.double()
    rows = {}
    for split, (inputs, labels) in case.splits.items():
        losses = case.loss(model, (inputs.double(), labels))
        gradients = [torch.autograd.grad(one, list(model.parameters()), retain_graph=True) for one in losses]
        rows[split] = np.array([torch.cat([part.flatten() for part in row]).numpy() for row in gradients])
    assert_same(exact(case), brute_force(rows), 1e-9)


def test_recall_and_spearman_are_those_by_brute_force():
    draw = np.random.default_rng(2)
    truth = draw.standard_normal((5, 40))
    found = truth + draw.standard_normal((5, 40))
    shares = [
        len(set(sorted(range(40), key=lambda i: -a[i])[:10]) & set(sorted(range(40), key=lambda i: -b[i])[:10])) / 10
        for a, b in zip(found, truth, strict=True)
    ]
    assert recall(found, truth) == pytest.approx(np.mean(shares))
    assert 0 < recall(found, truth) < 1
    assert spearman(found, truth) == pytest.approx(
        np.mean([spearmanr(a, b)[0] for a, b in zip(found, truth, strict=True)])
    )


def test_each_measure_sees_its_own_answer(codes):
    truth = answers(codes)
    flipped = Answers(-truth.influence, truth.cosine, -truth.s)
    found = compared(flipped, truth)
    assert found["Spearman"] == pytest.approx(-1)
    assert found["S Spearman"] == pytest.approx(-1)
    assert found["recall@10 top"] == found["recall@10 bottom"] == 0
    assert found["cosine recall@10"] == 1
    assert found["cosine Spearman"] == pytest.approx(1)


def test_top_and_bottom_are_told_apart(codes):
    truth = answers(codes)
    median = np.median(truth.influence, axis=1, keepdims=True)
    found = compared(dataclasses.replace(truth, influence=np.maximum(truth.influence, median)), truth)
    assert found["recall@10 top"] == 1
    assert found["recall@10 bottom"] < 0.8


def test_every_size_and_encoding_has_one_dimension_and_fits():
    pairs = [(size, encoding) for k in fidelity.DIMENSIONS for size, encoding in budgets(k)]
    assert sorted(pairs) == sorted((size, encoding) for size in (256, 1024, 4096) for encoding in fidelity.WIDTHS)
    for dimension in fidelity.DIMENSIONS:
        for size, encoding in budgets(dimension):
            stored = fit_codec(encoding, np.ones((2, dimension))).row_bytes
            assert 0.9 * size < stored - 4 + 16 <= size  # the scale of a row is among the 16
    assert (1024, "int8") in budgets(977) and (1024, "mixed") in budgets(2048)


@pytest.fixture
def small(monkeypatch):
    """Sizes for a model of 83 parameters."""
    monkeypatch.setattr(fidelity, "SAMPLE", 30)
    monkeypatch.setattr(fidelity, "budgets", lambda dimension: [(dimension, encoding) for encoding in fidelity.WIDTHS])


def figures(case, truth, method, dimension):
    coverage = fidelity.coverage_of(case)
    return {row["dtype"]: row for row in measured(case, coverage, truth, method, [dimension], 0)}


def test_nothing_is_lost_without_compression(case, small):
    for encoding, row in figures(case, exact(fidelity.unseen(case)), "sjlt", 83).items():  # the identity, as K = P
        least = 0.999 if encoding == "float32" else 0.95
        assert all(row[name] >= least for name in fidelity.MEASURES), row


@pytest.mark.parametrize("method", ["eigenbasis", "eigenbasis+groups"])
def test_more_numbers_keep_more(case, small, method):
    truth = exact(fidelity.unseen(case))
    few, many = (figures(case, truth, method, k)["float32"] for k in (4, 24))
    assert (few["K"], many["K"]) == (4, 24)
    assert few["Spearman"] + 0.05 < many["Spearman"] < 1


def test_the_second_step_is_made_where_the_method_says_so(case, small):
    coverage = fidelity.coverage_of(case)
    made = [
        fidelity.fitted(case, coverage, method, [8], 0)[0].selected for method in ("eigenbasis", "eigenbasis+groups")
    ]
    assert made == [8, 83]  # all coordinates that there are


def test_fitting_sees_the_sample_only(case, small):
    coverage = fidelity.coverage_of(case)
    inputs, labels = case.splits["train"]
    other = {**case.splits, "train": (torch.cat([inputs[:30], 9 * inputs[30:]]), labels), "query": (inputs, labels)}
    first, second = (
        fidelity.fitted(one, coverage, "eigenbasis", [8], 0)[0].state()
        for one in (case, dataclasses.replace(case, splits=other))
    )
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_fitting_sees_the_validation_rows(case, small):
    coverage = fidelity.coverage_of(case)
    inputs, labels = case.splits["validation"]
    other = dataclasses.replace(case, splits={**case.splits, "validation": (3 * inputs, labels)})
    first, second = (fidelity.fitted(one, coverage, "eigenbasis", [8], 0)[0].state()["bases"] for one in (case, other))
    assert first.shape != second.shape or not np.allclose(first, second)


def test_int8_and_bf16_are_turned_first(case, small, monkeypatch):
    seen = []

    def turned(projection, codes):
        seen.append(codes.shape)
        return fidelity.fitter("sjlt", projection.shapes, projection.dimension, 1).projection(), codes

    truth = exact(fidelity.unseen(case))
    expected = figures(case, truth, "eigenbasis", 24)
    monkeypatch.setattr(fidelity, "turned", turned)
    found = figures(case, truth, "eigenbasis", 24)
    assert seen == [(30, 24)]  # of rows that are asked for
    assert found["float32"] == expected["float32"]
    assert found["bf16"] != expected["bf16"] and found["int8"] != expected["int8"]


def test_rows_that_fit_are_not_asked_for(case, small):
    fresh = fidelity.unseen(case)
    assert torch.equal(fresh.splits["train"][0], case.splits["train"][0][30:])
    assert torch.equal(fresh.splits["train"][1], case.splits["train"][1][30:])
    assert exact(fresh).influence.shape == (ROWS["query"], 30)


def test_seeds_are_averaged_and_the_widest_spread_is_said():
    row = {"model": "m", "bytes": 256, "projection": "p", "dtype": "int8", "K": 240}
    low, high = (dict.fromkeys(fidelity.MEASURES, value) for value in (0.5, 0.75))
    rows = [{**row, **low}, {**row, "K": 1008, **low}, {**row, **high, "Spearman": 1.0}]
    first, second = over_seeds(rows)
    assert (first["K"], first["seeds"], first["Spearman"], first["S Spearman"]) == (240, 2, 0.75, 0.625)
    assert first["spread"] == 0.5
    assert (second["K"], second["seeds"], second["Spearman"], second["spread"]) == (1008, 1, 0.5, 0)


@pytest.mark.parametrize("name", ON_DIGITS)
def test_models_on_digits_are_small_and_rows_independent(name):
    torch.manual_seed(0)
    model = ON_DIGITS[name][0]().eval()
    images = torch.rand(3, 1, 8, 8)
    assert model(images).shape == (3, 10)
    torch.testing.assert_close(model(images)[1:], model(images[1:]))
    assert sum(parameter.numel() for parameter in model.parameters()) <= 60_000


def test_the_residual_network_has_batch_norm_and_shortcuts():
    model = ON_DIGITS["ResNet 16-16-32-44, BatchNorm"][0]()
    assert sum(isinstance(module, nn.BatchNorm2d) for module in model.modules()) == 7
    assert sum("shortcut" in name for name, _ in model.named_parameters()) == 2


def test_text_rows_are_windows_that_continue_and_do_not_repeat():
    text = Text(0)
    sizes = [len(rows) for rows in (text.train_rows(), text.validation_rows(), text.query_rows())]
    assert sizes == list(SIZES.values())
    windows = [tuple(row[0].tolist()) for rows in (text.train_rows(), text.query_rows()) for row in rows]
    assert len(set(windows)) > 0.95 * len(windows)  # the text itself repeats a few lines
    inputs, following = text.train_rows()[5]
    assert torch.equal(inputs[1:], following[:-1])
    assert 0 < STRIDE < len(inputs)


def test_the_transformer_on_text_does_not_look_ahead():
    text = Text(0)
    torch.manual_seed(0)
    model = text.model().eval()
    tokens = text.train_rows()[0][0][None]
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % text.signs
    first, second = model(tokens), model(changed)
    torch.testing.assert_close(first[:, :20], second[:, :20])
    assert not torch.allclose(first[:, 20:], second[:, 20:])
    assert text.loss(model, (tokens, tokens)).shape == (1,)


def test_a_trained_case_is_in_eval_mode_and_holds_all_rows():
    text = Text(1)
    made = trained("text", text, text.model, Recipe(1, 2e-3, "adamw"), 1)
    assert not made.model.training
    assert {split: len(rows[1]) for split, rows in made.splits.items()} == dict(zip(ROWS, SIZES.values(), strict=True))
    assert torch.equal(made.splits["query"][0][3], text.query_rows()[3][0])


def test_a_method_without_a_fit_comes_from_its_seed(case, small):
    coverage = fidelity.coverage_of(case)
    first, second = (fidelity.fitted(case, coverage, "sjlt", [8], seed)[0] for seed in (0, 1))
    assert isinstance(first, Projection)
    codes = [own["query"] for own in fidelity.captured(case, coverage, [first, first, second])]
    assert np.array_equal(codes[0], codes[1])
    assert not np.allclose(codes[0], codes[2])


@pytest.mark.parametrize("method", ["eigenbasis", "eigenbasis+groups", "sjlt"])
def test_projections_in_one_pass_are_those_of_a_pass_for_each(case, small, method):
    coverage = fidelity.coverage_of(case)
    together = fidelity.fitted(case, coverage, method, [4, 24], 0)
    apart = [fidelity.fitted(case, coverage, method, [each], 0)[0] for each in (4, 24)]
    codes = fidelity.captured(case, coverage, together)
    for found, projection in zip(codes, apart, strict=True):
        (expected,) = fidelity.captured(case, coverage, [projection])
        assert expected["train"].any() and all(np.array_equal(found[split], expected[split]) for split in ROWS)
