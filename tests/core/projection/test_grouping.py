"""Groups of coordinates and their components against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.core.memory import Watch
from pipeline.core.projection import grouping
from pipeline.core.projection.blockdiagonal import BlockDiagonal
from pipeline.core.projection.grouping import (
    alike,
    block_components,
    by_norm,
    fit_bytes,
    held_out_energies,
    kept,
    principal,
    squared_correlations,
)


def draw(rows: int, width: int, seed: int = 0) -> Tensor:
    """Rows whose coordinates are mixtures of a few causes, of norms over several decades."""
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, width // 3, generator=generator, dtype=torch.float64)
    mixed = causes @ torch.randn(width // 3, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    noise = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return (mixed + noise) * 10 ** torch.randn(rows, 1, generator=generator, dtype=torch.float64)


def products(rows: Tensor) -> Tensor:
    return rows @ rows.T


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def greedy(rows: np.ndarray, groups: int) -> list[list[int]]:
    """The rule, pair by pair."""
    energy = (rows**2).sum(0)
    left, found = set(range(rows.shape[1])), []
    for index in range(groups):
        own = [max(left, key=lambda j: energy[j])]
        left.remove(own[0])
        while len(own) < len(range(index, rows.shape[1], groups)):
            best = max(left, key=lambda j: sum((rows[:, i] @ rows[:, j]) ** 2 / (energy[i] * energy[j]) for i in own))
            own.append(best)
            left.remove(best)
        found.append(sorted(own))
    return found


@pytest.mark.parametrize(("width", "groups"), [(24, 4), (23, 4), (24, 1), (9, 9)])
def test_groups_are_those_of_the_greedy_rule(width: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping, "COLUMNS", 7)  # several blocks of correlations
    units = by_norm(draw(50, width))
    assert [own.tolist() for own in alike(units, groups)] == greedy(units.numpy(), groups)


def test_coordinates_of_one_cause_come_together() -> None:
    causes = torch.randn(400, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = causes.repeat(1, 5) * torch.arange(1, 21, dtype=torch.float64) / 10 ** torch.arange(4).repeat(5)
    found = sorted(own.tolist() for own in alike(rows, 4))
    assert found == [[cause, cause + 4, cause + 8, cause + 12, cause + 16] for cause in range(4)]


def test_correlations_with_a_coordinate_that_is_never_used_are_zero() -> None:
    rows = draw(30, 12)
    rows[:, 5] = 0
    found = squared_correlations(rows)
    assert not found[5].any() and not found[:, 5].any()
    assert found[3, 4] == pytest.approx(float((rows[:, 3] @ rows[:, 4]) ** 2 / (rows**2).sum(0)[3:5].prod()))
    assert sorted(torch.cat(alike(rows, 3)).tolist()) == list(range(12))


def test_rows_come_at_length_one_in_the_order_of_their_norms_if_they_have_a_direction() -> None:
    wrong = [[0.0, 0.0], [1.0, torch.inf], [torch.nan, 1.0], [-torch.inf, torch.nan]]
    rows = torch.tensor([[3.0, 4.0], *wrong, [0.0, 1e-30], [2.0, 0.0]]).double()
    assert by_norm(rows).tolist() == [[0, 1], [1, 0], [0.6, 0.8]]


def test_held_out_energies_are_those_of_the_other_half_and_never_rise() -> None:
    units = by_norm(draw(40, 9))
    expected = np.zeros(9)
    for own, other in ((units[0::2], units[1::2]), (units[1::2], units[0::2])):
        axes = np.linalg.svd(own.numpy())[2]
        expected += [((other.numpy() @ axis) ** 2).sum() for axis in axes]
    found = held_out_energies(units)
    np.testing.assert_allclose(found, np.minimum.accumulate(expected), rtol=1e-9)
    assert (np.diff(expected) > 0).any()  # the running minimum had something to do
    whole = held_out_energies(units[:4])  # fewer rows than coordinates: the bases are whole, so is the energy
    assert 0 < float(whole.sum()) <= 4 + 1e-12


def test_the_components_of_most_energy_over_all_groups_are_kept() -> None:
    energies = [torch.tensor([9.0, 5.0, 1.0]), torch.tensor([6.0, 5.0]), torch.tensor([0.5, 0.1])]
    assert [kept(energies, k) for k in (1, 2, 3, 4, 5, 7)] == [
        [1, 0, 0], [1, 1, 0], [2, 1, 0], [2, 2, 0], [3, 2, 0], [3, 2, 2]
    ]  # fmt: skip


@pytest.mark.parametrize(("rows", "groups"), [(60, 1), (60, 4), (5, 1), (5, 4), (0, 4), (0, 1)])
def test_columns_are_orthonormal_however_few_rows_there_are(rows: int, groups: int) -> None:
    blocks = block_components(draw(rows, 24), 10, groups)
    assert (blocks.selected, blocks.dimension, len(blocks.components)) == (24, 10, groups)
    matrix = blocks.codes(torch.eye(24, dtype=torch.float64))
    close(matrix.T @ matrix, torch.eye(10, dtype=torch.float64))


def test_all_components_keep_every_inner_product() -> None:
    blocks, other = block_components(draw(60, 24), 24, 4), draw(9, 24, seed=1)
    close(products(blocks.codes(other)), products(other))


def test_each_block_is_the_principal_components_of_its_group() -> None:
    rows = draw(60, 24)
    blocks, units = block_components(rows, 10, 4), by_norm(rows)
    assert len({len(matrix) for matrix in blocks.components}) == 1 and len(blocks.components) == 4
    for own, matrix in zip(blocks.order.split(6), blocks.components, strict=True):
        axes = torch.linalg.svd(units[:, own]).Vh[: matrix.shape[1]].T
        close(matrix @ matrix.T, axes @ axes.T)


def test_neither_order_nor_norms_of_rows_matter_to_components() -> None:
    rows, other = draw(60, 24), draw(9, 24, seed=1)
    shuffled = rows[torch.randperm(60, generator=torch.Generator().manual_seed(1))]
    with_zeros = torch.cat([torch.zeros(3, 24).double(), rows])
    for groups in (1, 4):
        expected = block_components(rows, 10, groups).codes(other)
        for same in (shuffled, with_zeros, 1e-30 * rows):
            torch.testing.assert_close(block_components(same, 10, groups).codes(other), expected)
    louder = rows * torch.linspace(1, 9, 60).double().unsqueeze(1)  # the dense components know no halves
    close(products(block_components(louder, 10, 1).codes(other)), products(block_components(rows, 10, 1).codes(other)))


def test_groups_of_coordinates_that_go_together_keep_more_than_others() -> None:
    rows, other = by_norm(draw(400, 48)), by_norm(draw(200, 48, seed=1))
    grouped = block_components(rows, 12, 4)
    generator = torch.Generator().manual_seed(3)
    at_random = [own.sort().values for own in torch.randperm(48, generator=generator).split(12)]
    counts = kept([held_out_energies(rows[:, own]) for own in at_random], 12)
    parts = [principal(rows[:, own], count) for own, count in zip(at_random, counts, strict=True)]
    energies = [
        float(blocks.codes(other).square().sum()) for blocks in (grouped, BlockDiagonal(torch.cat(at_random), parts))
    ]
    dense = float(block_components(rows, 12, 1).codes(other).square().sum())
    assert energies[1] < energies[0] < dense


def test_principal_components_of_no_energy_are_replaced() -> None:
    for rows in (torch.zeros(3, 6), torch.zeros(9, 6), torch.eye(6)[[0, 0, 0, 2]]):
        basis = principal(rows.double(), 4)
        close(basis.T @ basis, torch.eye(4, dtype=torch.float64))
        close(products(rows.double() @ basis), products(rows.double()))
    generator = torch.Generator().manual_seed(0)
    alike = torch.randn(4, 1, generator=generator).double() * torch.tensor([[2.0, 1.0, 4.0, 3.0, 0.5, 0.1]]).double()
    basis = principal(alike, 3)  # one component, then the two coordinates of most energy
    close(basis @ basis.T @ torch.eye(6).double()[:, 2:4], torch.eye(6).double()[:, 2:4])


@pytest.mark.parametrize(("rows", "selected", "dimension", "groups"), [
    (512, 1024, 256, 1), (2048, 1024, 256, 1), (512, 1024, 256, 4), (2048, 1024, 256, 4), (256, 1024, 768, 1),
    (100, 1024, 512, 16), (512, 1024, 1000, 2),
])  # fmt: skip
def test_what_the_fit_holds_is_foreseen(rows: int, selected: int, dimension: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    block_components(torch.randn(8, 4, generator=generator, dtype=torch.float64), 2, 2)  # what is imported when used
    for dtype in (torch.float32, torch.float64):
        with Watch() as watch:
            parts = [torch.randn(32, selected, generator=generator, dtype=dtype) for _ in range(rows // 32)]
            parts.append(torch.randn(rows % 32, selected, generator=generator, dtype=dtype))
            watch.restart()
            block_components(torch.cat([torch.zeros(0, selected, dtype=torch.float64), *parts]), dimension, groups)
            foreseen = fit_bytes(rows, selected, dimension, groups, dtype.itemsize)
            assert 0.9 * watch.peak < foreseen < 1.12 * watch.peak  # a watch adds workspaces to whatever peak there was
