"""What a batch gives: norms with their errors, and rows that are not finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.core.capture.cover import cover
from pipeline.core.projection import make
from pipeline.steps.capture import Capturer, finite_rows
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.tasks.digits import Digits

ROWS = 6


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 2, 8, 8, generator=generator), torch.randint(3, (ROWS,), generator=generator)


def capturer(batch: tuple[Tensor, Tensor], norms) -> Capturer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 9, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(9 * 64, 3))
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    coverage = cover(model, loss, tuple(shapes), (batch[0][:2], batch[1][:2]))
    return Capturer(Digits(), model, coverage, make("kronecker", shapes, 64, 0), [], norms)


def test_exact_norms_have_no_error(batch: tuple[Tensor, Tensor]) -> None:
    found = capturer(batch, "exact").capture(batch, ROWS)
    assert (found.norm_errors == 0).all() and (found.squared_norms > 0).all()


def test_the_error_of_a_norm_follows_from_that_of_its_square(batch: tuple[Tensor, Tensor]) -> None:
    setup = capturer(batch, "estimated")
    found = setup.capture(batch, ROWS)
    sketch = setup.projection.sketch(ROWS, norms="estimated")
    setup.coverage.engine.capture(batch, sketch)
    square, error = sketch.squared_norms().numpy(), sketch.squared_norm_errors().numpy()
    assert (error > 0).all()
    np.testing.assert_allclose(found.norm_errors, np.minimum(error / (2 * np.sqrt(square)), np.sqrt(error)))
    assert (found.norm_errors < np.sqrt(square)).all()


def test_a_row_that_is_not_finite_is_zero_and_flagged_and_harms_no_other(batch: tuple[Tensor, Tensor]) -> None:
    setup = capturer(batch, "estimated")
    good = setup.capture(batch, ROWS)
    batch[0][2, 0, 3, 3] = torch.nan
    found = setup.capture(batch, ROWS)
    others = [i for i in range(ROWS) if i != 2]
    assert found.flags.tolist() == [NOT_FINITE if i == 2 else FINITE for i in range(ROWS)]
    assert not found.codes[2].any() and found.squared_norms[2] == found.norm_errors[2] == 0
    np.testing.assert_allclose(found.codes[others], good.codes[others], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.norm_errors[others], good.norm_errors[others], rtol=1e-5)


def test_codes_that_overflow_though_norms_do_not_are_zero_and_flagged() -> None:
    model, large = nn.Linear(4, 2, bias=False), 9e18
    nn.init.constant_(model.weight, 0.01)
    signs = torch.cartesian_prod(*[torch.tensor([1.0, -1.0])] * 4)
    batch = (large * signs, torch.full((len(signs),), 2 * large))
    coverage = cover(model, lambda model, rows: model(rows[0])[:, 0] * rows[1], ("weight",), (signs[:2], signs[:2, 0]))
    found = Capturer(Digits(), model, coverage, make("sjlt", {"weight": (2, 4)}, 1, 0), [], "exact").capture(batch, 16)
    assert set(found.flags) == {FINITE, NOT_FINITE}  # where the one code is a sum of four of one sign, it is infinite
    assert np.isfinite(found.codes).all() and not found.codes[found.flags == NOT_FINITE].any()
    assert (found.squared_norms[found.flags == FINITE] > 1e70).all()


def test_finite_rows_are_told_even_where_infinities_cancel_or_a_sum_overflows() -> None:
    most, inf = np.finfo(np.float32).max, np.inf
    rows = np.array([[1, 2, 3], [inf, 0, -inf], [most, most, most], [0, np.nan, 0], [0, 0, -inf]], np.float32)
    assert finite_rows(rows).tolist() == [True, False, True, False, False]
    assert finite_rows(np.asfortranarray(rows[[0, 2]])).tolist() == [True, True]
