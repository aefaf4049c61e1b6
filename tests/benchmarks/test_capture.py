import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import capture
from benchmarks.capture import COLUMNS, Store, choices
from benchmarks.models import CASES, Case, case, loss
from benchmarks.shard_task import Sized
from benchmarks.timing import Measured
from pipeline.config import load
from pipeline.core.capture.cover import cover
from pipeline.core.codec import Encoded, fit_codec
from pipeline.core.projection import make
from pipeline.steps.capture import Capturer
from pipeline.storage.arrays import Arrays


@pytest.fixture
def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return Case("small", "small", model, (torch.randn(8, 6), torch.randint(3, (8,))), batches=3)


def test_the_products_default_comes_first_and_nothing_twice():
    config = load()
    found = choices(config)
    assert (found[0].method, found[0].dimension) == (config.projection.method, config.projection.dimension)
    assert len(set(found)) == len(found)
    assert {"kronecker", "sjlt", "dmin", "eigenbasis"} <= {choice.method for choice in found}
    assert {choice.dimension for choice in found} == {config.projection.dimension, 1024, 4096}


def test_a_store_holds_the_codes_of_every_batch(small, tmp_path):
    covered = cover(small.model, loss, [name for name, _ in small.model.named_parameters()], small.batch)
    shapes = {name: tuple(value.shape) for name, value in small.model.named_parameters()}
    projection = make("sjlt", shapes, 16, 0)
    capturer = Capturer(Sized("mlp", 8), small.model, covered, projection, [], "exact")
    truth = capturer.capture(small.batch, 8).codes
    codec = fit_codec("int8", truth)
    store = Store(small, capturer, codec, tmp_path)
    store.write(3)
    store.write(1)
    for number, batches in ((0, 3), (1, 1)):
        arrays = Arrays(tmp_path / str(number))
        found = codec.decode(Encoded(*(arrays.read(name) for name in ("codes", "row_scale", "block_scale"))))
        np.testing.assert_array_equal(found, np.tile(codec.round_trip(truth), (batches, 1)))
        np.testing.assert_allclose(found[:8] @ found[:8].T, truth @ truth.T, atol=0.02 * np.square(truth).sum(1).max())
        np.testing.assert_allclose(arrays.read("norm_code"), np.linalg.norm(found, axis=1), rtol=1e-5)
        assert not arrays.read("flag").any()
        np.testing.assert_allclose(arrays.read("loss")[:8], loss(small.model, small.batch).detach(), rtol=1e-6)
    rows = torch.func.vmap(torch.func.grad(lambda p, x, y: loss_of(small.model, p, x, y)), (None, 0, 0))
    gradients = rows(dict(small.model.named_parameters()), *small.batch)
    squares = sum(value.flatten(1).square().sum(1) for value in gradients.values())
    np.testing.assert_allclose(arrays.read("norm_full"), squares.sqrt().detach(), rtol=1e-5)


def loss_of(model, parameters, inputs, label):
    logits = torch.func.functional_call(model, parameters, inputs[None])
    return nn.functional.cross_entropy(logits, label[None])


def test_all_captures_of_the_product_are_rows_with_the_same_columns(small, monkeypatch):
    config = load()
    section = config.projection.model_copy(update={"method": "kronecker", "dimension": 16, "sample_rows": 16})
    config = config.model_copy(update={"projection": section})
    monkeypatch.setattr(capture, "case", lambda key: small)
    monkeypatch.setitem(CASES, "small", lambda: small)

    def measured(case, reference, work):
        work.run(1)
        return Measured(1.0, 1.0, 1.0, 5, 0)

    monkeypatch.setattr(capture, "measure", measured)
    rows = list(capture.own_rows("small", config))
    assert [row["engine"] for row in rows] == ["floor"] + ["lowland"] * len(choices(config))
    assert all(set(row) == set(COLUMNS) for row in rows)
    assert rows[1]["note"] == f"default of the product, {config.gradients.codec} on disk"


def test_without_their_environment_the_peers_are_said_to_be_unmeasured(monkeypatch, tmp_path):
    monkeypatch.setattr(capture, "own_rows", lambda key, config: iter(()))
    rows = list(capture.all_rows(load(), tmp_path / "none"))
    assert len(rows) == len(capture.CASES) * len(capture.NAMES)
    assert {row["note"] for row in rows} == {"not measured: no environment of the peers; `make bench` makes it"}
    assert all(set(row) == set(COLUMNS) for row in rows)


def test_what_is_above_its_limit_and_who_is_faster_is_said():
    def rows_of(key: str, **medians: float | None) -> list[dict]:
        name = case(key).name
        return [
            {"model": name, "engine": engine, "method": "", "note": "", "ratio_median": median}
            for engine, median in medians.items()
        ]

    rows = [
        *rows_of("mlp", floor=1.0, lowland=1.6, slower=1.7, faster=1.1, unmeasured=None),
        *rows_of("cnn", floor=1.0, lowland=1.1, slower=1.2),
        *rows_of("transformer", floor=1.0, lowland=1.2, slower=1.3),
    ]
    rows[2:2] = [{**rows[1], "method": "no default", "ratio_median": 0.5}]
    assert [line.partition(": ")[2] for line in capture.missed(rows)] == [
        "1.60 x the floor, expected 1.5 at most",
        "faster  takes 1.10",
    ]
