"""Eigenbasis selection against dense rotations; products of codes are compared, as eigenvectors have no sign."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipeline.core import factors
from pipeline.core.factors import Vectors
from pipeline.core.projection import Projection, Settings, eigenfit, fitter, make, moments, sides
from pipeline.core.projection.eigenbasis import Eigenbasis
from pipeline.core.projection.eigenfit import dear, largest, second_step
from pipeline.core.projection.grouping import fit_bytes
from pipeline.core.projection.kronecker import as_matrix
from pipeline.core.projection.sides import ExactSide, SketchedSide
from pipeline.core.projection.streams import stream
from pipeline.errors import ConfigError, LowlandError
from tests.oracles_eigenbasis import principal_rows, rotated_rows, selected_rows

SHAPES: dict[str, tuple[int, ...]] = {
    "first.weight": (7, 6),
    "first.bias": (7,),
    "conv.weight": (5, 3, 2, 2),
    "scale": (),
    "words.weight": (9, 4),
}
SIZE = sum(prod(shape) for shape in SHAPES.values())
AS_FACTORS = ("first.weight", "conv.weight")
POSITIONS = {"first.weight": 1, "conv.weight": 3}
EACH = [1.0, 3.0, 0.3, 2.0, 1.0]  # the parameters' scales: energies differ
Sample = dict[str, tuple[Tensor, ...]]


def sample(rows: int, seed: int = 0, shapes: dict[str, tuple[int, ...]] = SHAPES) -> Sample:
    """Gradients of each parameter as they arrive: factors, or materialised."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        decay = 0.7 ** torch.arange(size[-1], dtype=torch.float64) if len(size) > 1 else torch.ones(1)
        return torch.randn(rows, *size, generator=generator, dtype=torch.float64) * decay

    found: Sample = {}
    for scale, (name, shape) in zip(EACH, shapes.items(), strict=True):
        outputs, inputs = as_matrix(shape)
        if name in AS_FACTORS:
            found[name] = (scale * draw(POSITIONS[name], outputs), draw(POSITIONS[name], inputs))
        else:
            found[name] = (scale * draw(*shape),)
    return found


def taken(values: Sample, rows: Iterable[int]) -> Sample:
    index = torch.tensor(list(rows))
    return {name: tuple(part[index] for part in parts) for name, parts in values.items()}


def count(values: Sample) -> int:
    return len(next(iter(values.values()))[0])


def dense(values: Sample) -> dict[str, Tensor]:
    """The same materialised, [n, O, I]."""
    found = {}
    for name, parts in values.items():
        whole = torch.einsum("bto,bti->boi", *parts) if len(parts) == 2 else parts[0]
        found[name] = whole.reshape(len(whole), *as_matrix(SHAPES[name]))
    return found


def flat(values: Sample) -> Tensor:
    return torch.cat([part.flatten(1) for part in dense(values).values()], 1)


def feed(sink, values: Sample) -> None:
    for name, parts in reversed(values.items()):  # as they arrive going backward
        sink.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sink.dense(name, parts[0])


def fitted(values: Sample, dimension: int, settings: Settings, batch: int = 1000) -> Projection:
    work = fitter("eigenbasis", {name: SHAPES[name] for name in values}, dimension, 0, settings)
    while not work.done:
        for start in range(0, count(values), batch):
            part = taken(values, range(start, min(start + batch, count(values))))
            with work.batch(count(part), torch.float64) as sink:
                feed(sink, part)
        work.end_pass()
    return work.projection()


def sketched(projection: Projection, values: Sample) -> Tensor:
    sketch = projection.sketch(count(values), torch.float64)
    feed(sink=sketch, values=values)
    return sketch.codes()


def products(codes: Tensor) -> Tensor:
    return codes @ codes.T


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.fixture(params=["selection", "one group", "four groups"])
def settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """With K = 15: no second step, and two of 40 coordinates."""
    if request.param == "four groups":
        monkeypatch.setattr(eigenfit, "SHARE", 0)
        monkeypatch.setattr(eigenfit, "LEAST_PRODUCTS", 40 * 15 / 4)
    return Settings(basis=4, selected=15 if request.param == "selection" else 40)


def test_whole_bases_and_all_coordinates_keep_every_inner_product() -> None:
    projection, values = fitted(sample(40), SIZE + 5, Settings(basis=99)), sample(12, seed=1)
    assert projection.dimension == SIZE
    close(products(sketched(projection, values)), products(flat(values)))


@pytest.mark.parametrize(("rank", "dimension"), [(99, 20), (3, 20), (3, 5), (2, 10_000)])
def test_the_coordinates_of_largest_energy_are_kept(rank: int, dimension: int) -> None:
    values = sample(40)
    projection = fitted(values, dimension, Settings(basis=rank, selected=dimension))
    factors = {name: values[name] for name in AS_FACTORS}
    expected = selected_rows(dense(values), factors, rank, dimension)
    assert (
        projection.dimension == expected.shape[1] == min(dimension, rotated_rows(dense(values), factors, rank).shape[1])
    )
    close(products(sketched(projection, values)), products(expected))
    assert (sketched(projection, sample(9, 1)).square().sum(1) < flat(sample(9, 1)).square().sum(1)).all()


def test_the_second_step_is_principal_components_of_the_selection() -> None:
    values, other = sample(70), sample(9, seed=1)
    selection = fitted(values, 50, Settings(basis=5, selected=50))
    projection = fitted(values, 12, Settings(basis=5, selected=50))
    assert (projection.dimension, projection.selected) == (12, 50)
    factors = {name: values[name] for name in AS_FACTORS}
    expected = principal_rows(selected_rows(dense(values), factors, 5, 50), 12)
    close(products(sketched(projection, values)), products(expected))
    axes = torch.linalg.svd(normalize(sketched(selection, values))).Vh[:12].T
    close(products(sketched(projection, other)), products(sketched(selection, other) @ axes))


def test_fewer_rows_than_dimensions() -> None:
    values, other = sample(8), sample(30, seed=1)
    selection = fitted(values, 60, Settings(selected=60))
    projection = fitted(values, 25, Settings(selected=60))
    assert projection.dimension == 25
    components = torch.from_numpy(projection.state()["components"]).reshape(60, 25)
    close(components.T @ components, torch.eye(25, dtype=torch.float64))
    close(products(sketched(projection, values)), products(sketched(selection, values)))
    kept, alone = sketched(projection, other).square().sum(), sketched(selection, other) @ components[:, :8]
    assert kept > 1.1 * alone.square().sum()  # what continues the components is of use on other rows


def test_neither_batches_nor_order_of_the_sample_matter(settings: Settings) -> None:
    values, other = sample(30), sample(9, seed=1)
    codes = sketched(fitted(values, 15, settings), other)
    torch.testing.assert_close(sketched(fitted(values, 15, settings, batch=7), other), codes, rtol=1e-8, atol=1e-8)
    shuffled = taken(values, torch.randperm(30, generator=torch.Generator().manual_seed(1)).tolist())
    torch.testing.assert_close(sketched(fitted(shuffled, 15, settings, batch=4), other), codes, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(sketched(fitted(values, 15, settings), taken(other, [4])), codes[4:5])


@pytest.mark.parametrize("positions", [1, 2, 40])
def test_factors_and_entries_give_the_same(positions: int, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factors, "BLOCK_BYTES", 1000)  # several blocks of outputs
    projection = fitted(sample(30), 15, settings)
    monkeypatch.setitem(POSITIONS, "first.weight", positions)
    monkeypatch.setitem(POSITIONS, "conv.weight", positions)
    values = sample(9, seed=1)
    by_factors, by_entries = (projection.sketch(9, torch.float64) for _ in range(2))
    feed(by_factors, values)
    for name, gradient in dense(values).items():
        by_entries.dense(name, gradient.reshape(9, *SHAPES[name]))
    close(by_factors.codes(), by_entries.codes())
    for sketch in (by_factors, by_entries):
        close(sketch.squared_norms(), flat(values).square().sum(1))


def test_a_stored_state_gives_the_projection_back(settings: Settings) -> None:
    projection, values = fitted(sample(30), 15, settings), sample(9, seed=1)
    state = {name: array.copy() for name, array in projection.state().items()}
    again = make("eigenbasis", SHAPES, projection.dimension, 0, state)
    assert again.dimension == 15 and ("components" in state) == (settings.selected == 40)
    assert torch.equal(sketched(again, values), sketched(projection, values))


def test_linear_and_in_the_dtype_asked_for() -> None:
    projection, values = fitted(sample(30), 15, Settings(selected=40)), sample(9, seed=1)
    codes = sketched(projection, values)
    tripled = {name: (3 * parts[0], *parts[1:]) for name, parts in values.items()}
    close(sketched(projection, tripled), 3 * codes)
    sketch = projection.sketch(9)
    feed(sketch, {name: tuple(part.float() for part in parts) for name, parts in values.items()})
    assert sketch.codes().dtype == torch.float32
    torch.testing.assert_close(sketch.codes().double(), codes, rtol=1e-4, atol=1e-4)


def test_parameters_without_energy_take_no_room_but_must_arrive() -> None:
    values, other = sample(30), sample(9, seed=1)
    values["conv.weight"] = tuple(0 * part for part in values["conv.weight"])
    values["words.weight"] = (0 * values["words.weight"][0],)
    projection = fitted(values, 15, Settings(selected=15))
    ranks = dict(zip(SHAPES, projection.state()["ranks"].tolist(), strict=True))
    assert ranks["conv.weight"] == ranks["words.weight"] == [0, 0]
    sketch = projection.sketch(9, torch.float64)
    feed(sketch, {name: parts for name, parts in other.items() if name != "words.weight"})
    with pytest.raises(LowlandError, match="expected every parameter once, got nothing of words.weight"):
        sketch.codes()
    feed(sketch, {"words.weight": other["words.weight"]})
    close(sketch.squared_norms(), flat(other).square().sum(1))
    # The bases of what is kept hold only columns that are needed.
    kept = projection.state()["coordinates"]
    for index, (r_o, r_i) in enumerate(ranks.values()):
        own = kept[kept[:, 0] == index]
        assert (len(np.unique(own[:, 1])), len(np.unique(own[:, 2]))) == (r_o, r_i)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_count_as_zero(wrong: float, settings: Settings) -> None:
    values, other = sample(30), sample(9, seed=1)
    spoilt, zeroed = (taken(values, range(30)) for _ in range(2))
    for parts, value in ((spoilt, wrong), (zeroed, 0.0)):
        for tensors in parts.values():
            tensors[0][3] = value
    assert not sketched(fitted(spoilt, 15, settings), other).isnan().any()
    close(
        products(sketched(fitted(spoilt, 15, settings), other)), products(sketched(fitted(zeroed, 15, settings), other))
    )


def test_a_long_side_is_sketched(monkeypatch: pytest.MonkeyPatch) -> None:
    """With whole bases a sketched side spans all of it, too; with short ones it keeps nearly as much energy."""
    values, other = sample(60), sample(9, seed=1)
    exact = sketched(fitted(values, 20, Settings(basis=3)), values).square().sum()
    monkeypatch.setattr(moments, "LONGEST", 5)
    close(products(sketched(fitted(values, SIZE, Settings(basis=99)), other)), products(flat(other)))
    assert sketched(fitted(values, 20, Settings(basis=3)), values).square().sum() > 0.9 * exact


def test_sketched_bases_are_the_exact_ones_of_moments_of_low_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides, "STEP_BYTES", 8 * 50 * 10)  # ten vectors at a time
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(99, 4, generator=generator, dtype=torch.float64) * torch.tensor([5.0, 3.0, 2.0, 1.0])
    vectors = low @ torch.linalg.qr(torch.randn(50, 4, generator=generator, dtype=torch.float64)).Q.T
    exact, sketch = ExactSide(50), SketchedSide(50, 4, stream(0, "test"))
    for side in (exact, sketch):
        side.add(vectors)
    true = torch.linalg.svd(vectors, full_matrices=False).Vh[:4].T
    true = true * true.gather(0, true.abs().argmax(0, keepdim=True)).sign()
    torch.testing.assert_close(exact.basis(4), true)
    torch.testing.assert_close(sketch.basis(4), true, rtol=1e-5, atol=1e-5)


def test_an_empty_sketch_has_a_basis() -> None:
    basis = SketchedSide(50, 4, stream(0, "test")).basis(4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4, dtype=torch.float64))


def test_how_many_coordinates_are_selected_where_none_are_given() -> None:
    dear = [second_step(dimension, None, 1e12) for dimension in (1, 1024, 1025, 2048, 4096, 8192, 9000)]
    assert dear == [(4096, 1), (4096, 1), (4100, 1), (8192, 1), (8192, 1), (8192, 1), (9000, 1)]
    cheap = [second_step(dimension, None, 0) for dimension in (1, 64, 232, 1024, 1183, 2048, 4096)]
    assert cheap == [(1024, 1), (1024, 1), (1024, 4), (1536, 32), (1183, 1), (2048, 1), (4096, 1)]


def test_small_models_with_positions_select_many_in_a_few_groups_and_larger_ones_what_their_share_allows() -> None:
    small = [second_step(dimension, None, 0, positions=True) for dimension in (64, 512, 1024, 2048, 4096, 8704)]
    assert small == [(4096, 1), (4096, 1), (4096, 2), (8192, 8), (6144, 16), (8704, 1)]
    # A tenth of 96 million products, a CNN on 32 x 32 pixels: half of what one group of 8,192 would cost.
    assert second_step(2048, None, 96e6, positions=True) == second_step(2048, None, 96e6) == (3072, 1)
    assert second_step(2048, None, 168e6, positions=True) == (8192, 1)


def test_as_few_groups_as_the_model_or_half_a_millisecond_allow() -> None:
    found = [second_step(k, 4096, 0)[1] for k in (32, 33, 64, 65, 512, 513, 1024, 4000)]
    assert found == [2, 4, 4, 8, 32, 32, 32, 32]  # no more
    # A tenth of the products of the model, where that is more.
    assert [second_step(1024, 4096, products)[1] for products in (41_943_040, 41_943_039, 20_971_520)] == [1, 2, 2]


@pytest.mark.parametrize("selected", [None, 40])
def test_groups_follow_the_products_of_the_layers(selected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenfit, "RICH", (1, 40))
    monkeypatch.setattr(eigenfit, "PLAIN", (1, 40))
    monkeypatch.setattr(eigenfit, "MOST_SELECTED", 40)
    monkeypatch.setattr(eigenfit, "LEAST_WITH_POSITIONS", 1)
    work_a_row = 1 * 7 * 6 + 3 * 5 * 12  # T O I of what comes as factors
    for share, sizes in ((15 * 40 / work_a_row, [40]), (15 * 40 / (work_a_row + 1), [20, 20]), (0.5, [5] * 8)):
        monkeypatch.setattr(eigenfit, "SHARE", share)
        projection = fitted(sample(30), 15, Settings(selected=selected))
        assert projection.dimension == 15 and projection.state()["group_sizes"].tolist() == sizes


@pytest.mark.parametrize("dimension", [40, 50])
def test_no_second_step_where_as_many_are_selected(dimension: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eigenfit, "RICH", (1, 40))
    monkeypatch.setattr(eigenfit, "PLAIN", (1, 40))
    for settings in (Settings(), Settings(selected=40)):
        projection = fitted(sample(30), dimension, settings)
        assert projection.dimension == dimension and "components" not in projection.state()


def test_the_size_of_bases_depends_on_positions_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "BASIS", 4)
    monkeypatch.setattr(moments, "BASIS_OF_POSITIONS", 2)
    monkeypatch.setattr(moments, "LONGEST", 5)  # all sides but those of the convolution's outputs and of a word
    ranks = dict(zip(SHAPES, fitted(sample(30), SIZE, Settings()).state()["ranks"].tolist(), strict=True))
    expected = {"first.weight": [4, 4], "first.bias": [1, 4], "conv.weight": [2, 2], "scale": [1, 1]}
    assert ranks == {**expected, "words.weight": [4, 4]}
    whole = fitted(sample(30), SIZE, Settings(basis=3)).state()["ranks"].tolist()
    assert max(map(max, whole)) == 3 and whole[2] == [3, 3]


def test_a_direction_is_dear_where_each_of_its_coordinates_costs_more_than_is_allowed() -> None:
    places = torch.tensor([0, 0, 0, 2, 4]), torch.tensor([0, 1, 2, 0, 0])
    assert [own.tolist() for own in dear(places, (10, 30), (5, 3), allowed=10)] == [[1, 3], [1, 2]]
    assert [own.tolist() for own in dear(places, (30, 30.1), (5, 3), allowed=10)] == [[1, 2, 3, 4], [0, 1, 2]]


def test_what_was_given_up_is_no_place_of_the_largest() -> None:
    energies = {"a": torch.tensor([[5.0, -1.0], [3.0, 0.0]]), "b": torch.tensor([[4.0, -1.0]])}
    found = {name: [side.tolist() for side in places] for name, places in largest(energies, 3).items()}
    assert found == {"a": [[0, 1], [0, 0]], "b": [[0], [0]]}
    assert sum(len(a) for a, _ in largest(energies, 9).values()) == 4


@pytest.mark.parametrize(
    ("count", "sharers", "ranks"), [(25, 99, [8, 3]), (26, 99, [8, 4]), (41, 99, [8, 5]), (25, 24, [8, 4])]
)
def test_coordinates_of_a_dear_direction_go_to_others(
    count: int, sharers: int, ranks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three inputs serve 8 coordinates each; a fourth costs 400 products. Allowed for each are 9,600 / count, or more."""
    monkeypatch.setattr(eigenfit, "LEAST_PRODUCTS", 0)
    monkeypatch.setattr(eigenfit, "SHARERS", sharers)
    generator = torch.Generator().manual_seed(0)
    scales = torch.tensor([1, 0.9, 0.8, 0.03, 0.02, 0.01, 0.01, 0.01], dtype=torch.float64)
    output, input = (torch.randn(40, 50, 8, generator=generator, dtype=torch.float64) for _ in range(2))
    work = fitter("eigenbasis", {"weight": (8, 8), "bias": (8,)}, count, 0, Settings(selected=count))
    while not work.done:
        with work.batch(40) as sink:
            sink.outer("weight", Vectors(output), Vectors(input * scales))
            sink.dense("bias", torch.full((40, 8), 1e-9, dtype=torch.float64))
        work.end_pass()
    projection = work.projection()
    assert projection.dimension == count  # of 41, 32 + 8 are left: nothing is given up
    assert projection.state()["ranks"][0].tolist() == ranks


def test_a_seeded_projection_needs_no_pass() -> None:
    work = fitter("sjlt", SHAPES, 16, 3)
    assert work.done
    values = {name: (gradient.reshape(9, *SHAPES[name]),) for name, gradient in dense(sample(9)).items()}
    assert torch.equal(sketched(work.projection(), values), sketched(make("sjlt", SHAPES, 16, 3), values))
    for call in (lambda: work.batch(3), work.end_pass):
        with pytest.raises(LowlandError, match="expected no pass for a projection that is known from its seed, got "):
            call()
    with pytest.raises(ConfigError, match="expected a projection method among .*eigenbasis, got eigenbase"):
        fitter("eigenbase", SHAPES, 16, 3).projection()


def test_messages() -> None:
    with pytest.raises(
        ConfigError, match="expected a basis, .* of at least 1, got 0, 8, None and None: mend the section projection"
    ):
        fitter("eigenbasis", SHAPES, 8, 0, Settings(basis=0))
    with pytest.raises(
        ConfigError, match="expected .* of at least 1, got None, 8, 0 and None: mend the section projection"
    ):
        fitter("eigenbasis", SHAPES, 8, 0, Settings(selected=0))
    work = fitter("eigenbasis", SHAPES, 8, 0, Settings(basis=2, selected=8))
    with pytest.raises(LowlandError, match="expected further passes over the sample before there is a projection"):
        work.projection()
    for _ in range(2):
        work.end_pass()
    assert work.done
    with pytest.raises(LowlandError, match="expected no further pass over the sample, got one"), work.batch(3):
        pass
    with pytest.raises(ConfigError, match="expected a fitted state for an eigenbasis projection, got none: fit it"):
        make("eigenbasis", SHAPES, 8, 0)
    state = work.projection().state()
    with pytest.raises(ConfigError, match="expected a fitted state for an eigenbasis projection, got no bases: fit it"):
        make("eigenbasis", SHAPES, 8, 0, {name: array for name, array in state.items() if name != "bases"})
    cut = fitted(sample(30), 8, Settings(selected=40)).state()
    cut["coordinates"] = cut["coordinates"][:-1]
    with pytest.raises(ConfigError, match="expected a second step of 39 selected coordinates, got one of 40: fit it"):
        make("eigenbasis", SHAPES, 8, 0, cut)
    with pytest.raises(
        ConfigError, match="expected a fitted state of 1 parameters and .* bases, got 5 and .*fit it anew"
    ):
        Eigenbasis.from_state({"first.weight": (7, 6)}, 8, 0, state)


def test_what_grows_with_the_sample_is_foreseen_before_its_pass() -> None:
    values = sample(20)
    fitting = fitter("eigenbasis", SHAPES, 8, 0, Settings(basis=4, selected=30, groups=2))
    foreseen = []
    while not fitting.done:
        foreseen.append((fitting.end_bytes(20), fitting.end_bytes(20, torch.float64)))
        with fitting.batch(20, torch.float64) as sink:
            feed(sink, values)
        fitting.end_pass()
    assert foreseen == [(0, 0), (0, 0), (fit_bytes(20, 30, 8, 2), fit_bytes(20, 30, 8, 2, 8))]
    assert fitter("sjlt", SHAPES, 8, 0).end_bytes(20) == 0


@pytest.mark.parametrize(("settings", "dimension", "chosen"), [
    (Settings(), 8, {"basis": [64, 192], "selected": SIZE, "groups": 1}),
    (Settings(basis=4, selected=30, groups=2), 8, {"basis": [4], "selected": 30, "groups": 2}),
    (Settings(basis=4, selected=8), 8, {"basis": [4], "selected": 8, "groups": 0}),
])  # fmt: skip
def test_what_was_chosen_is_told(settings: Settings, dimension: int, chosen: dict[str, object]) -> None:
    values = sample(20)
    fitting = fitter("eigenbasis", SHAPES, dimension, 0, settings)
    while not fitting.done:
        with fitting.batch(20, torch.float64) as sink:
            feed(sink, values)
        fitting.end_pass()
    assert fitting.chosen == chosen
    assert fitter("sjlt", SHAPES, 8, 0).chosen == {}
