"""Patches of convolutions that are not unfolded against those that are, and against autograd, in all geometries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.core.capture.convolution import ConvFormula, Patches
from pipeline.core.capture.formula import Outer, materialised
from pipeline.core.factors import Maps, Vectors
from pipeline.core.projection import METHODS
from tests.oracles_factors import assert_same_under_a_projection, assert_same_vectors

# Torch says that it copies an input that it pads on one side only.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")

ROWS, CHANNELS, OUTPUTS = 3, 4, 6
GEOMETRIES: dict[str, dict[str, Any]] = {
    "plain": {"kernel_size": 3},
    "of size one": {"kernel_size": 1},
    "padded": {"kernel_size": 3, "padding": 1},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "strided past the end": {"kernel_size": 2, "stride": 3},
    "dilated": {"kernel_size": 2, "dilation": 3},
    "same, even kernel": {"kernel_size": 4, "padding": "same"},
    "same, dilated": {"kernel_size": 3, "padding": "same", "dilation": 2},
    "valid": {"kernel_size": 3, "padding": "valid"},
    "reflected": {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
    "replicated": {"kernel_size": 3, "padding": "same", "padding_mode": "replicate", "dilation": 2},
}
FLAT: dict[str, dict[str, Any]] = {  # sides of their own in two dimensions
    "oblong": {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    "oblong, reflected": {"kernel_size": (3, 1), "padding": (1, 0), "padding_mode": "reflect"},
    "oblong, same": {"kernel_size": (2, 3), "padding": "same", "dilation": (3, 1)},
}
CASES = [("1d", name) for name in GEOMETRIES] + [("2d", name) for name in (*GEOMETRIES, *FLAT)]


def layer(dimensions: str, geometry: str, groups: int = 1) -> tuple[nn.Module, Tensor]:
    """A convolution and an input for it."""
    generator = torch.Generator().manual_seed(0)
    size = (9,) if dimensions == "1d" else (7, 8)
    options = {**GEOMETRIES, **FLAT}[geometry]
    kind = nn.Conv1d if dimensions == "1d" else nn.Conv2d
    module = kind(CHANNELS, OUTPUTS, groups=groups, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module, torch.randn(ROWS, CHANNELS, *size, generator=generator, dtype=torch.float64)


def patches_of(module: nn.Module, input: Tensor) -> Patches:
    return Patches(module, input, module(input.to(module.weight.dtype)).flatten(2).shape[2])


def upstream(module: nn.Module, input: Tensor) -> Tensor:
    """Gradients of the loss with respect to the outputs."""
    shape = module(input).shape
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("dimensions", "geometry"), CASES)
def test_patches_are_what_each_output_looks_at(dimensions: str, geometry: str) -> None:
    module, input = layer(dimensions, geometry)
    patches = patches_of(module, input)
    assert_same_vectors(patches)
    output = module(input) - module.bias.view(-1, *[1] * (input.dim() - 2))
    by_patches = patches.values() @ module.weight.flatten(1).T
    torch.testing.assert_close(by_patches, output.flatten(2).mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("dimensions", "geometry"), CASES)
def test_gradients_are_those_of_autograd(dimensions: str, geometry: str, groups: int) -> None:
    module, input = layer(dimensions, geometry, groups)
    gradient, formula = upstream(module, input), ConvFormula()
    weight = formula.weight(module, input, gradient, ROWS)
    assert isinstance(weight, Outer) == (groups == 1)
    found = [
        materialised(weight, module.weight.shape),
        materialised(formula.bias(module, gradient, ROWS), module.bias.shape),
    ]
    for row in range(ROWS):
        loss = (module(input[row : row + 1]) * gradient[row : row + 1]).sum()
        for own, expected in zip(found, torch.autograd.grad(loss, (module.weight, module.bias)), strict=True):
            torch.testing.assert_close(own[row], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("geometry", ["strided", "same, even kernel"])
@pytest.mark.parametrize("dimensions", ["1d", "2d"])
def test_several_images_a_row(dimensions: str, geometry: str) -> None:
    """A module that is used on B x n images, as in a time-distributed layer."""
    module, input = layer(dimensions, geometry)
    images = torch.cat([input, 2 * input.flip(0)])
    gradient = upstream(module, images)
    weight = ConvFormula().weight(module, images, gradient, ROWS)
    found = materialised(weight, module.weight.shape)
    for row in range(ROWS):
        own = slice(2 * row, 2 * row + 2)
        loss = (module(images[own]) * gradient[own]).sum()
        torch.testing.assert_close(found[row], torch.autograd.grad(loss, module.weight)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dimensions", "geometry"),
    [("1d", "same, dilated"), ("2d", "strided"), ("2d", "circular"), ("2d", "oblong"), ("2d", "of size one")],
)
def test_same_under_every_projection(method: str, dimensions: str, geometry: str) -> None:
    module, input = layer(dimensions, geometry)
    output = Maps(upstream(module, input).flatten(2))
    assert_same_under_a_projection(method, output, patches_of(module, input))


def test_patches_are_not_unfolded_to_be_rotated(monkeypatch: pytest.MonkeyPatch) -> None:
    module, input = layer("2d", "strided")
    patches = patches_of(module, input)
    expected = patches.values()[:, :, :2]
    monkeypatch.setattr(Patches, "values", lambda _: pytest.fail("unfolded"))
    torch.testing.assert_close(patches.rotated(torch.eye(patches.shape[2], 2, dtype=torch.float64)), expected)


def test_half_precision_is_brought_to_single() -> None:
    module, input = layer("2d", "padded")
    patches = patches_of(module, input.bfloat16())
    assert patches.dtype == patches.values().dtype == torch.float32
    torch.testing.assert_close(patches.values(), patches_of(module, input.bfloat16().float()).values())
    assert isinstance(patches.rotated(torch.eye(patches.shape[2])), Tensor)


def test_vectors_want_three_dimensions() -> None:
    with pytest.raises(ValueError, match="expected 3|not enough values"):
        Vectors(torch.zeros(2, 3))


@pytest.mark.parametrize("limit", [1, 4, 9, 1000])
def test_moments_see_patches_of_a_coarser_grid(limit: int) -> None:
    layer = nn.Conv2d(2, 1, 3, padding=1, stride=2, dtype=torch.float64)
    image = torch.randn(3, 2, 13, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patches = Patches(layer, image, 7 * 7)
    fed: list[torch.Tensor] = []

    class Record:
        def add(self, vectors: torch.Tensor) -> None:
            fed.append(vectors)

        def add_units(self, indices: torch.Tensor) -> None:
            pytest.fail("patches are no unit vectors")

    patches.feed(Record(), limit)
    all_patches = {tuple(vector) for vector in patches.values().flatten(0, 1).tolist()}
    found = [tuple(vector) for vector in fed[0].tolist()]
    assert len(found) == len(set(found)) and set(found) <= all_patches
    assert 1 <= len(found) / 3 <= max(2.25 * limit, 1) and (limit < 49 or len(found) == len(all_patches))
