"""The tensor sketch against its hashes, entry by entry, and its two ways to the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.core.factors import Vectors, Words
from pipeline.core.projection import Projection, make, tensorsketch
from pipeline.core.projection.tensorsketch import TensorSketch, chunks, wave_squares

SHAPES: dict[str, tuple[int, ...]] = {"linear.weight": (7, 6), "bias": (7,), "conv.weight": (5, 3, 2, 2), "scale": ()}
AS_FACTORS = ("linear.weight", "conv.weight")
SIZE = 42 + 7 + 60 + 1
ROWS = 5
WAYS = ["transforms", "entries", "by cost"]


def sample(positions: int, seed: int = 0) -> dict[str, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(ROWS, *size, generator=generator, dtype=torch.float64)

    return {
        "linear.weight": (draw(positions, 7), draw(positions, 6)),
        "bias": (draw(7),),
        "conv.weight": (draw(positions, 5), draw(positions, 12)),
        "scale": (draw(),),
    }


def gradients(values: dict[str, tuple[Tensor, ...]]) -> dict[str, Tensor]:
    return {
        name: (torch.einsum("bto,bti->boi", *parts) if len(parts) == 2 else parts[0]).reshape(ROWS, *SHAPES[name])
        for name, parts in values.items()
    }


def take(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "by cost":
        monkeypatch.setattr(tensorsketch, "_entries_are_cheaper", lambda *_: way == "entries")


def by_the_hashes(projection: Projection, values: dict[str, Tensor]) -> Tensor:
    """Each entry to number (h(a) + h(b)) mod K with sign s(a) s(b)."""
    assert isinstance(projection, TensorSketch)
    codes = torch.zeros(ROWS, projection.dimension, dtype=torch.float64)
    for name, (left, right) in projection.hashes(torch.device("cpu")).items():
        matrix = values[name].reshape(ROWS, len(left.buckets), len(right.buckets))
        for a in range(len(left.buckets)):
            for b in range(len(right.buckets)):
                bucket = int(left.buckets[a] + right.buckets[b]) % projection.dimension
                codes[:, bucket] += left.signs[a] * right.signs[b] * matrix[:, a, b]
    return codes


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("positions", [1, 3, 40])
@pytest.mark.parametrize("dimension", [1, 2, 31, 32, 109])
def test_codes_are_the_sums_that_the_hashes_say(
    dimension: int, positions: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(way, monkeypatch)
    monkeypatch.setattr(tensorsketch, "CHUNK_BYTES", 8 * dimension * 12)  # some rows and positions at a time
    monkeypatch.setattr(tensorsketch, "ENTRIES", 30)
    projection, values = make("tensorsketch", SHAPES, dimension, 3), sample(positions)
    sketch = projection.sketch(ROWS, torch.float64)
    for name, parts in values.items():
        sketch.outer(name, *map(Vectors, parts)) if len(parts) == 2 else sketch.dense(name, parts[0])
    expected = by_the_hashes(projection, gradients(values))
    torch.testing.assert_close(sketch.codes(), expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(sketch.codes(), sketch.codes())
    true = sum(gradient.reshape(ROWS, -1).square().sum(1) for gradient in gradients(values).values())
    torch.testing.assert_close(sketch.squared_norms(), true, rtol=1e-10, atol=0)
    assert sketch.squared_norm_errors().tolist() == [0] * ROWS


def test_in_single_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that lie far apart, all parameters through one inverse transform."""
    values = sample(40)
    scale = torch.tensor([1e-12, 1e-3, 1.0, 1e3, 1e6], dtype=torch.float64)
    values = {
        name: (parts[0] * scale.view(-1, *[1] * (parts[0].dim() - 1)), *parts[1:]) for name, parts in values.items()
    }
    projection, found = make("tensorsketch", SHAPES, 64, 0), []
    for way in ("transforms", "entries"):
        take(way, monkeypatch)
        sketch = projection.sketch(ROWS)
        for name, parts in values.items():
            singles = [part.float() for part in parts]
            sketch.outer(name, *map(Vectors, singles)) if len(parts) == 2 else sketch.dense(name, singles[0])
        assert sketch.codes().dtype == torch.float32
        found.append(sketch.codes().double())
    expected = by_the_hashes(projection, gradients(values))
    for codes in found:
        assert ((codes - expected).norm(dim=1) < 1e-6 * expected.norm(dim=1)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_codes_are_summed_in_single(dtype: torch.dtype) -> None:
    projection, values = make("tensorsketch", {"linear.weight": (7, 6)}, 16, 0), sample(3)["linear.weight"]
    sketch, exact = (projection.sketch(ROWS, kind) for kind in (dtype, torch.float32))
    for each in (sketch, exact):
        each.outer("linear.weight", *(Vectors(part.to(dtype)) for part in values))
    assert torch.equal(sketch.codes(), exact.codes().to(dtype))


def test_unit_vectors_are_never_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    words, width, dimension = 50_000, 4, 64
    indices = torch.tensor([[3, 49_999, 3]])
    input = torch.randn(1, 3, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    projection = make("tensorsketch", {"weight": (words, width)}, dimension, 0)
    sketch = projection.sketch(1, torch.float64)
    monkeypatch.setattr(Words, "values", lambda _: pytest.fail("written out"))
    monkeypatch.setattr(Words, "product", lambda *_: pytest.fail("written out"))
    sketch.outer("weight", Words(indices, words, torch.float64), Vectors(input))
    assert isinstance(projection, TensorSketch)
    left, right = projection.hashes(torch.device("cpu"))["weight"]
    codes = torch.zeros(dimension, dtype=torch.float64)
    for position, a in enumerate(indices[0]):
        for b in range(width):
            bucket = int(left.buckets[a] + right.buckets[b]) % dimension
            codes[bucket] += left.signs[a] * right.signs[b] * input[0, position, b]
    torch.testing.assert_close(sketch.codes()[0], codes, rtol=1e-10, atol=1e-10)


def test_the_way_is_chosen_by_cost() -> None:
    def entries(outputs: int, inputs: int, positions: int, dimension: int = 1024, free: bool = True) -> bool:
        sides = (Vectors(torch.empty(1, positions, size)) for size in (outputs, inputs))
        return tensorsketch._entries_are_cheaper(*sides, dimension, free)

    assert not entries(512, 784, 1)  # transforms of 1,024 numbers beside 400,000 entries
    assert entries(10, 20, 1)
    assert entries(64, 576, 1024)  # many positions: G is summed up sooner than as many transforms are taken
    assert entries(64, 576, 64, 16_384) and not entries(512, 512, 64)
    assert entries(512, 512, 900, free=False) and not entries(512, 512, 900)  # Gram matrices of 900 positions


@pytest.mark.parametrize(
    ("rows", "positions", "size"), [(5, 7, 1), (5, 7, 3), (5, 7, 10), (5, 7, 100), (3, 1, 2), (0, 4, 2)]
)
def test_chunks_cover_each_vector_once(rows: int, positions: int, size: int) -> None:
    seen = torch.zeros(rows, positions)
    for row, position in chunks(rows, positions, size):
        assert seen[row, position].numel() <= size
        seen[row, position] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9])
def test_squares_of_waves(size: int) -> None:
    values = torch.randn(4, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(wave_squares(torch.fft.rfft(values), size), values.square().sum(1))
