"""Per-sample gradients of convolutions, as factors whose input side is never unfolded where a few directions will do.

The weight [O, I k] is a linear layer's, whose inputs are the patches that the output positions look at. A rotation of
all patches into r directions is itself a convolution, with r filters: no patch is written out, which would take k
times the image's memory and, measured on a CNN, half as long as the whole forward and backward pass. In groups patches
are written out, and with them the gradients, of which there are fewer by the number of groups.

Letters: B rows, T output positions, O and I channels, k size of the kernel, r directions.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.core.capture.formula import Dense, Formula, Layer, Outer, Part, channel_sums
from pipeline.core.factors import Factor, Maps, Moments, Vectors, at_least_float32


class ConvFormula(Formula):
    """Convolutions in one and two dimensions; in groups they are materialised."""

    def weight(self, module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Part:
        """As factors s and patches of x; in groups, their products a group."""
        if module.groups > 1:
            return Dense(_grouped(module, input, gradient, rows))
        maps = gradient.flatten(2)
        patches = Patches(module, input, maps.shape[2])
        if len(maps) == rows:
            return Outer(Maps(maps), patches)
        return Outer(Vectors(_folded(maps.mT, rows)), Vectors(_folded(patches.values(), rows)))

    def bias(self, module: Layer, gradient: Tensor, rows: int) -> Part:
        """The sum of s over positions, a channel."""
        return Dense(channel_sums(gradient, rows))


class Patches(Factor):
    """What each output position of a convolution looks at: T vectors of I k numbers."""

    def __init__(self, module: Layer, input: Tensor, positions: int) -> None:
        """Take the layer, for its geometry, its input [B, I, ...] and T."""
        self._module, self._image = module, at_least_float32(input)
        self.shape = (len(input), positions, module.weight[0].numel())
        self.dtype, self.device = self._image.dtype, input.device

    def values(self) -> Tensor:
        """See the base."""
        return unfolded(self._module, self._image).mT

    def rotated(self, basis: Tensor) -> Tensor:
        """See the base."""
        module, image = self._module, self._image.to(basis.dtype)
        filters = basis.T.reshape(-1, *module.weight.shape[1:])
        convolve: Any = F.conv1d if isinstance(module, nn.Conv1d) else F.conv2d
        padding = module.padding
        if module.padding_mode != "zeros":
            image, padding = padded(module, image), 0
        found = convolve(image, filters, stride=module.stride, padding=padding, dilation=module.dilation)
        return found.flatten(2).mT

    def feed(self, moments: Moments, positions: int) -> None:
        """See the base; a coarser grid of positions, so that only its patches are written out."""
        axes = len(self._module.kernel_size)
        coarser = ceil((self.shape[1] / positions) ** (1 / axes)) if self.shape[1] > positions else 1
        moments.add(unfolded(self._module, self._image, coarser).mT.flatten(0, 1))


def unfolded(module: Layer, image: Tensor, coarser: int = 1) -> Tensor:
    """Patches of an image [B, I, ...], written out: [B, I k, T]; of every `coarser`-th position along each axis."""
    image = padded(module, image)
    kernel, dilation = module.kernel_size, module.dilation
    stride = tuple(coarser * step for step in module.stride)
    if isinstance(module, nn.Conv1d):  # a picture of height one
        image, kernel, stride, dilation = image.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    return F.unfold(image, kernel, dilation=dilation, stride=stride)


def _grouped(module: Layer, input: Tensor, gradient: Tensor, rows: int) -> Tensor:
    """The gradient of a weight [O, I / groups, ...], a group at a time: [B, *shape]."""
    patches, output = unfolded(module, input), gradient.flatten(2)
    grouped = [values.unflatten(1, (module.groups, -1)) for values in (output, patches)]
    products = grouped[0] @ grouped[1].mT  # [B, groups, O / groups, (I / groups) k]
    return products.reshape(rows, -1, *module.weight.shape).sum(1)


def _folded(values: Tensor, rows: int) -> Tensor:
    """[B * n, T, D] to [B, n T, D]."""
    return values.reshape(rows, -1, values.shape[-1])


def padded(module: Layer, input: Tensor) -> Tensor:
    """An image with the layer's padding around it."""
    sides = _padding(module)
    if not any(sides):
        return input
    return F.pad(input, sides, mode="constant" if module.padding_mode == "zeros" else module.padding_mode)


def _padding(module: Layer) -> list[int]:
    """Padding for `F.pad`, which counts from the last dimension: left, right, top, bottom."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            whole = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [whole // 2, whole - whole // 2]
        else:
            each = 0 if module.padding == "valid" else module.padding[axis]
            sides += [each, each]
    return sides
