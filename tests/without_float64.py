"""A device without float64, played by the CPU: tensors say that they are on MPS, and refuse what MPS refuses.

Refused are tensors of float64, also on their way to the CPU (first there, then in float64), and operations between the
device and the CPU, but for numbers. All else is computed on the CPU by a tensor inside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU, MPS = torch.device("cpu"), torch.device("mps")
REFUSED = (torch.float64, torch.complex128)
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
_TO = Tensor.to
INDEXED = torch.ops.aten.index.Tensor  # positions may be on the CPU


@contextmanager
def without_float64() -> Iterator[torch.device]:
    """Within the context there is a device "mps"."""
    with patch.object(Tensor, "to", _to), _Made():
        yield MPS


class OnDevice(Tensor):
    """A tensor on the device. To autograd, which asks the build for MPS, it is one without numbers."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        if inner.dtype in REFUSED:
            raise TypeError(f"Cannot convert a MPS Tensor to {inner.dtype} as the MPS framework does not support it")
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device="meta",
        )  # fmt: skip
        made.inner = inner
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return MPS

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __getitem__(self, index: Any) -> Tensor:  # positions in a list would be lost on a device without numbers
        return super().__getitem__(torch.tensor(index, dtype=torch.long) if isinstance(index, list) else index)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _played(func, args, kwargs or {})


class _Made(TorchDispatchMode):
    """Tensors that are made on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _played(func, args, kwargs or {})


def _to(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to`, which asks the build for the device before anything is dispatched."""
    given = [*args, *kwargs.values()]
    devices = [_device(each) for each in given if isinstance(each, (str, torch.device, Tensor))]
    if isinstance(values, OnDevice) or not devices or devices[0] != MPS:
        return _TO(values, *args, **kwargs)
    dtypes = [each.dtype if isinstance(each, Tensor) else each for each in given]
    dtype = next((each for each in dtypes if isinstance(each, torch.dtype)), values.dtype)
    return OnDevice(_TO(values.detach(), dtype, copy=True))


def _device(given: Any) -> torch.device:
    return given.device if isinstance(given, Tensor) else torch.device(given)


def _played(func: Any, args: Any, kwargs: Any) -> Any:
    """What an operation gives, on the device if it says so or its tensors are there."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = [leaf for leaf in tensors if isinstance(leaf, OnDevice)]
    asked = kwargs.get("device")
    wanted = torch.device(asked).type in ("mps", "meta") if asked is not None else bool(here)
    if not wanted and not here:
        return func(*args, **kwargs)
    if func in COPIES:
        dtype = args[0].dtype if len(args) > 1 else kwargs.get("dtype") or args[0].dtype
        if dtype in REFUSED:
            raise TypeError(f"Cannot convert a MPS Tensor to {dtype} as the MPS framework does not support it")
    elif func is not INDEXED and any(leaf.dim() and not isinstance(leaf, OnDevice) for leaf in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, got mps and cpu in {func}")
    plain, named = tree_map(_bare, args), tree_map(_bare, kwargs)
    found = func(*plain, **named)
    if plain and found is plain[0]:  # changed in place
        return args[0]
    return tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, Tensor) else leaf, found) if wanted else found


def _bare(leaf: Any) -> Any:
    if isinstance(leaf, torch.device):
        return CPU
    return leaf.inner if isinstance(leaf, OnDevice) else leaf
