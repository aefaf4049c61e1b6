"""Every estimator against dense float64 linear algebra written out; the number of blocks must not matter."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from pipeline.core.estimators import ESTIMATORS, PairEstimator
from pipeline.core.estimators.trak import LEAST
from pipeline.methods import METHODS, SOLVED_PAIRS
from tests.memory_stores import MemoryStores


def damped(codes, damping):
    """C + lambda with lambda = damping x tr(C) / rows, [K, K]."""
    matrix = sum(np.outer(g, g) for g in codes) / len(codes)
    return matrix + damping * np.trace(matrix) / len(codes) * np.eye(len(matrix))


def mean_of_inverses(codes):
    """DataInf's A as its definition has it: the mean of (g g^T + lambda)^-1."""
    damping = 0.1 * np.mean(np.square(codes))
    return np.mean([np.linalg.inv(np.outer(g, g) + damping * np.eye(len(g))) for g in codes], 0)


def fisher_inverse(codes):
    """LoGra's, lambda a tenth of the mean eigenvalue."""
    matrix = codes.T @ codes / len(codes)
    return np.linalg.inv(matrix + 0.1 * np.trace(matrix) / len(matrix) * np.eye(len(matrix)))


def blockwise(inverse, codes, edges):
    out = np.zeros((codes.shape[1], codes.shape[1]))
    for a, b in pairwise(edges):
        out[a:b, a:b] = inverse(codes[:, a:b])
    return out


def margins(codes, losses):
    """Gradients of the margin: minus those of the loss over 1 - p."""
    return np.array([-g / (1 - np.exp(-loss)) for g, loss in zip(codes, losses, strict=True)])


def trak(stores, at):
    total, doubts = 0, []
    for each in at:
        phi = {s: margins(stores.codes[s][each], stores.losses[s][each]) for s in ("train", "validation")}
        n = len(phi["train"])
        kernel = phi["train"].T @ phi["train"]
        kernel += stores.damping * np.trace(kernel) / n * np.eye(len(kernel))
        total = total + phi["validation"] @ np.linalg.inv(kernel) @ phi["train"].T
        doubts.append(1 - np.exp(-stores.losses["train"][each]))
    return total / len(at) * np.mean(doubts, 0)


def changes(stores, split):
    """How losses change along the ensemble, from .05 nats or more at trained, [n, M]."""
    start = [max(loss, 0.05) for loss in stores.losses[split]["trained"]]
    return stores.members[split] - np.array(start)[:, None]


def expected(name, stores, at):
    """Pair scores of validation rows (as queries) and train rows, [q, n]."""
    train, queries = stores.codes["train"][at[0]], stores.codes["validation"][at[0]]
    if name == "trak":
        return trak(stores, at)
    if name == "gex":
        queries, train = changes(stores, "validation"), changes(stores, "train")
        return np.mean([np.outer(q, t) for q, t in zip(queries.T, train.T, strict=True)], 0)
    if name in SOLVED_PAIRS:
        products = stores.products.astype(np.float64).T
        return np.square(products) if name.startswith("fvm") else products
    if name == "tracin":
        return sum(stores.rate(c) * stores.codes["validation"][c] @ stores.codes["train"][c].T for c in at)
    if name == "cosine":
        lengths = np.outer(np.linalg.norm(queries, axis=1), np.linalg.norm(train, axis=1))
        return queries @ train.T / lengths
    if name in ("datainf", "logra"):
        inverse = {"datainf": mean_of_inverses, "logra": fisher_inverse}[name]
        return queries @ blockwise(inverse, train, stores.edges) @ train.T
    inverse = np.linalg.inv(damped(train, stores.damping))
    products = queries @ inverse @ train.T
    if name == "relatif":
        return products / np.linalg.norm(train @ inverse, axis=1)
    return np.square(products) if name == "fvm" else products


PAIRS = [name for name in METHODS if issubclass(ESTIMATORS[name], PairEstimator) and not name.startswith("fine")]
"""But for f-INE, whose pairs are no products; tests of its own."""
SEVERAL = {"tracin": ("epoch-1", "epoch-4"), "trak": ("trained", "seed-1", "seed-2")}


@pytest.fixture(params=[[0, 5], [0, 2, 5]], ids=["one block", "two blocks"])
def edges(request):
    return request.param


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_are_what_dense_algebra_says(rng, name, several, edges):
    at = SEVERAL.get(name, ("trained",)) if several else ("trained",)
    stores = MemoryStores(rng, at)
    stores.rates, stores.edges = {"epoch-1": 0.5, "epoch-4": 0.01}, edges
    estimator = ESTIMATORS[name].fit(stores, at)
    found = estimator.pairs(stores.rows("validation"), stores.rows("train"))
    np.testing.assert_allclose(found, expected(name, stores, at), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in PAIRS if name not in ("fvm", "gex")])
def test_rows_are_the_mean_of_pairs_over_the_validation_rows(rng, name):
    at = SEVERAL.get(name, ("trained",))
    stores = MemoryStores(rng, at)
    found = ESTIMATORS[name].fit(stores, at).rows(stores.rows("train"))
    np.testing.assert_allclose(found, expected(name, stores, at).mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", PAIRS)
def test_the_size_of_blocks_does_not_matter(rng, name):
    at = SEVERAL.get(name, ("trained",))
    stores, scores = MemoryStores(rng, at), []
    for stores.step in (1, 7, 100):
        scores.append(ESTIMATORS[name].fit(stores, at).rows(stores.rows("train")))
    np.testing.assert_allclose(scores[1:], [scores[0]] * 2, rtol=1e-10, atol=1e-13)


def test_forms_of_rows_are_what_dense_algebra_says(rng):
    stores = MemoryStores(rng, ("trained",))
    train = stores.codes["train"]["trained"]
    inverse, matrix = np.linalg.inv(damped(train, stores.damping)), train.T @ train / len(train)
    wanted = {
        "s": inverse,
        "self_influence": inverse,
        "w": inverse @ matrix @ inverse,
        "fvm": inverse @ matrix @ inverse,
    }
    for name, form in wanted.items():
        found = ESTIMATORS[name].fit(stores, ["trained"]).rows(stores.rows("train"))
        np.testing.assert_allclose(found, np.diag(train @ form @ train.T), rtol=1e-10)


def test_gex_of_a_row_is_its_influence_on_itself(rng):
    stores = MemoryStores(rng, ("trained",))
    estimator = ESTIMATORS["gex"].fit(stores, ["trained"])
    found = estimator.rows(stores.rows("train"))
    pairs = estimator.pairs(stores.rows("train"), stores.rows("train"))
    np.testing.assert_allclose(found, np.diagonal(pairs), rtol=1e-10)
    np.testing.assert_allclose(found, np.square(changes(stores, "train")).mean(1), rtol=1e-10)


def test_solved_scores_are_those_of_their_own_solver(rng):
    stores = MemoryStores(rng, ("trained",))
    for name, sign in (("classical_cg", 1), ("classical_ekfac", -1)):
        found = ESTIMATORS[name].fit(stores, ["trained"]).rows(stores.rows("train", np.array([4, 2])))
        np.testing.assert_array_equal(found, sign * stores.solutions[[4, 2]])


def test_solved_pairs_that_do_not_count_spoil_no_others(rng):
    stores = MemoryStores(rng, ("trained",))
    stores.products[:, 3] = np.nan
    estimator = ESTIMATORS["influence_ekfac"].fit(stores, ["trained"])
    found = estimator.pairs(stores.rows("validation", np.array([5, 2])), stores.rows("train", np.array([4, 1, 0])))
    np.testing.assert_array_equal(found, stores.products[np.ix_([4, 1, 0], [5, 2])].T.astype(np.float64))


def test_the_mean_of_single_points_is_w_where_the_curvature_is_that_of_the_queries(rng):
    stores = MemoryStores(rng, ("trained",))
    estimator = ESTIMATORS["fvm"].fit(stores, ["trained"])
    pairs = estimator.pairs(stores.rows("train"), stores.rows("train"))
    np.testing.assert_allclose(pairs.mean(0), estimator.rows(stores.rows("train")), rtol=1e-10)


def test_margins_of_a_softmax_are_what_autograd_says(rng):
    """grad log p/(1-p) = -grad loss / (1 - p), the identity that spares TRAK a capture of its own."""
    torch = pytest.importorskip("torch")
    logits = torch.tensor(rng.normal(size=(6, 4)), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(rng.integers(0, 4, 6))
    log_p = torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    (of_loss,) = torch.autograd.grad(-log_p.sum(), logits, retain_graph=True)
    (of_margin,) = torch.autograd.grad((log_p - torch.log1p(-log_p.exp())).sum(), logits)
    np.testing.assert_allclose(margins(of_loss.numpy(), -log_p.detach().numpy()), of_margin.numpy(), rtol=1e-10)


def test_trak_takes_losses_that_are_zero_in_float32_as_the_least_doubt(rng):
    stores = MemoryStores(rng, ("trained",))
    stores.losses["train"]["trained"][:3] = 0.0
    found = ESTIMATORS["trak"].fit(stores, ["trained"]).rows(stores.rows("train"))
    assert np.isfinite(found).all() and 0 < LEAST < np.finfo(np.float32).eps


def test_trak_of_other_losses_takes_minus_the_loss_for_the_margin(rng):
    stores = MemoryStores(rng, ("trained",), classification=False)
    found = ESTIMATORS["trak"].fit(stores, ["trained"]).pairs(stores.rows("validation"), stores.rows("train"))
    train, queries = (stores.codes[split]["trained"] for split in ("train", "validation"))
    n = len(train)
    np.testing.assert_allclose(found, queries @ np.linalg.inv(n * damped(train, stores.damping)) @ train.T, rtol=1e-9)


def test_a_row_of_zeros_has_no_relative_influence_and_no_cosine(rng):
    stores = MemoryStores(rng, ("trained",))
    stores.codes["train"]["trained"][4] = 0
    for name in ("relatif", "cosine"):
        assert ESTIMATORS[name].fit(stores, ["trained"]).rows(stores.rows("train"))[4] == 0


def test_confident_learning_is_what_cleanlab_says_of_the_softmax(rng):
    rank = pytest.importorskip("cleanlab.rank")
    stores = MemoryStores(rng, ("flat",))
    p = np.exp(stores.logs)
    means = np.array([p[stores.given == c, c].mean() for c in range(3)])  # adjusted self confidence by its definition
    shifted = p - means
    shifted += means.max()
    shifted /= shifted.sum(1, keepdims=True)
    found = ESTIMATORS["confident_learning"].fit(stores, ["flat"]).rows(stores.rows("train"))
    np.testing.assert_allclose(found, 1 - shifted[np.arange(len(p)), stores.given], atol=1e-6)
    np.testing.assert_allclose(
        found, 1 - rank.get_label_quality_scores(stores.given, p, adjust_pred_probs=True), atol=1e-9
    )


def test_every_declared_method_has_a_class_and_pairs_where_it_says_so():
    assert set(METHODS) == set(ESTIMATORS)
    for name, method in METHODS.items():
        if method.pairs:
            assert issubclass(ESTIMATORS[name], PairEstimator)
            assert ESTIMATORS[name].squared == (method.pairs == "unsigned")


def test_signs_say_which_rows_are_suspicious():
    assert METHODS["s"].suspicious == 1 and METHODS["tracin"].suspicious == -1
