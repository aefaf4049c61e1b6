"""Losses that are sums of parts: each part's code by itself, beside the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from pipeline.core.capture.cover import cover
from pipeline.core.projection import make
from pipeline.errors import TaskError
from pipeline.shards import Plan
from pipeline.steps.capture import Capturer
from pipeline.steps.stores import open_codes
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Batch, Task
from pipeline.tasks.checks import check_task, row_set
from tests.oracles import per_sample_gradients
from tests.workflow.runs import SMALL
from tests.workflow.steps import compute, config_of

ROWS, K = 7, 24


class Targets(Task):
    """Regression on three targets at once; the error of each is a part."""

    loss_parts = 3

    def model(self) -> nn.Module:
        return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))

    def rows(self, first: int, last: int) -> TensorDataset:
        x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
        y = torch.stack([x.sum(1), x[:, 0] * 5, x[:, 1] - x[:, 2]], 1)
        return TensorDataset(x[first:last], y[first:last], torch.ones(60, 3)[first:last])

    def train_rows(self) -> TensorDataset:
        return self.rows(0, 40)

    def validation_rows(self) -> TensorDataset:
        return self.rows(40, 54)

    def query_rows(self) -> TensorDataset:
        return self.rows(54, 60)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        x, y, weights = batch
        return (weights * (model(x) - y).square()).sum(1)

    def loss_part(self, batch: Batch, index: int) -> Batch:
        x, y, weights = batch
        return x, y, weights * (torch.arange(3, device=weights.device) == index)

    def train(self, model: nn.Module) -> None:
        optimizer = torch.optim.SGD(model.parameters(), 0.02)
        for _ in range(30):
            optimizer.zero_grad()
            self.loss(model, self.train_rows().tensors).mean().backward()
            optimizer.step()


class Unsummed(Targets):
    """One whose parts are not all of its loss."""

    def loss_part(self, batch: Batch, index: int) -> Batch:
        return super().loss_part(batch, min(index, 1))


@pytest.fixture
def whole() -> Capturer:
    """Of the whole loss, in float64."""
    torch.manual_seed(0)
    task = Targets()
    model = task.model().double()
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    coverage = cover(model, task.loss, tuple(shapes), batch_of(2))
    return Capturer(task, model, coverage, make("dmin", shapes, K, 0), [], "exact")


def batch_of(rows: int, first: int = 0) -> Batch:
    return tuple(part.double() for part in row_set(Targets(), "train").batch(range(first, first + rows)))


def by_part(codes: np.ndarray) -> np.ndarray:
    """[n, parts, K]."""
    return codes.reshape(len(codes), Targets.loss_parts, -1)


def test_the_codes_of_the_parts_sum_to_that_of_the_whole_loss(whole: Capturer) -> None:
    together, apart = (replace(whole, parts=parts).capture(batch_of(ROWS), ROWS) for parts in (1, 3))
    assert apart.codes.shape == (ROWS, 3 * K)
    np.testing.assert_allclose(by_part(apart.codes).sum(1), together.codes, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(apart.losses, together.losses)


def test_each_part_is_the_gradient_of_its_own_loss(whole: Capturer) -> None:
    batch = batch_of(ROWS)
    found = by_part(replace(whole, parts=3, projection=make("identity", whole.projection.shapes, 1, 0))
                    .capture(batch, ROWS).codes)  # fmt: skip
    for i in range(3):
        names = list(whole.projection.shapes)
        true = per_sample_gradients(whole.model, Targets().loss, Targets().loss_part(batch, i), ROWS, names)
        np.testing.assert_allclose(found[:, i], true.numpy(), rtol=1e-5, atol=1e-6)


def test_normalised_parts_have_length_one_before_they_are_compressed(whole: Capturer) -> None:
    exact = replace(whole, parts=3, projection=make("identity", whole.projection.shapes, 1, 0))
    plain, unit = (replace(exact, normalised=each).capture(batch_of(ROWS), ROWS) for each in (False, True))
    np.testing.assert_allclose(np.linalg.norm(by_part(unit.codes), axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(unit.squared_norms, np.square(plain.codes.astype(np.float64)).sum(1), rtol=1e-5)
    lengths = np.linalg.norm(by_part(plain.codes), axis=2)
    assert lengths.max() > 3 * lengths.min(), "parts of one length prove nothing"
    np.testing.assert_allclose(by_part(unit.codes), by_part(plain.codes) / lengths[..., None], rtol=1e-4, atol=1e-6)


def test_products_of_normalised_rows_are_sums_of_cosines(whole: Capturer) -> None:
    exact = replace(whole, parts=3, normalised=True, projection=make("identity", whole.projection.shapes, 1, 0))
    codes = exact.capture(batch_of(ROWS), ROWS).codes.astype(np.float64)
    raw = by_part(replace(exact, normalised=False).capture(batch_of(ROWS), ROWS).codes.astype(np.float64))
    units = raw / np.linalg.norm(raw, axis=2, keepdims=True)
    np.testing.assert_allclose(codes @ codes.T, np.einsum("aik,bik->ab", units, units), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_batches_do_not_matter(whole: Capturer, normalised: bool) -> None:
    setup = replace(whole, parts=3, normalised=normalised)
    together = setup.capture(batch_of(ROWS), ROWS).codes
    alone = np.concatenate([setup.capture(batch_of(1, i), 1).codes for i in range(ROWS)])
    np.testing.assert_allclose(together, alone, rtol=1e-6, atol=1e-6)


def test_a_part_without_gradient_is_zero_and_stays_finite(whole: Capturer) -> None:
    x, y, weights = batch_of(ROWS)
    found = replace(whole, parts=3, normalised=True).capture((x, y, weights * torch.tensor([1, 0, 1])), ROWS)
    assert not by_part(found.codes)[:, 1].any() and (found.flags == 0).all()


def test_one_part_that_is_not_finite_flags_the_row(whole: Capturer) -> None:
    batch = batch_of(ROWS)
    batch[1][2, 1] = torch.nan
    found = replace(whole, parts=3).capture(batch, ROWS)
    assert found.flags.tolist() == [int(i == 2) for i in range(ROWS)] and not found.codes[2].any()


def test_parts_that_do_not_sum_to_the_loss_are_refused() -> None:
    assert check_task(Targets()).parts == 3
    with pytest.raises(TaskError, match="parts of train row .* to sum to its loss"):
        check_task(Unsummed())


def test_all_stages_run_on_separate_parts_whatever_shards_and_batches(tmp_path: Path) -> None:
    name = f"{Path(__file__)}:Targets"
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**SMALL, "task": {"class": name}}))
    tables = []
    for place, shard, batch in (("a", 40, 16), ("b", 27, 5)):
        config = config_of(
            tmp_path / "my.yaml",
            plan={"shard_rows": shard},
            projection={"dimension": 8},
            gradients={"parts": "separate", "normalise": "part", "batch_rows": batch},
        )
        tables.append(compute(tmp_path / place, config))
        layout = Layout(tmp_path / place)
        codes = open_codes(layout, Plan.load(layout.plan), "trained", "train")
        assert codes.dimension == 24 and Plan.load(layout.plan).parts == 3
    assert np.isfinite(tables[0]["s"]).all()
    np.testing.assert_allclose(tables[0]["s"], tables[1]["s"], rtol=1e-3)
