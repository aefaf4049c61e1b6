"""Taking batches apart: any nesting of tuples, lists, mappings and dataclasses with B rows in its leaves.

A leaf belongs to the rows, and is cut into them, when its length is B: a tensor or array by its first dimension, and a
list or tuple of plain values (such as texts). Everything else is shared by all rows and handed on as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.errors import TaskError

Cut = Callable[[Any], Any]


def batch_size(batch: Any) -> int:
    """B: the length of the first tensor with dimensions, else of the first array or list of plain values.

    Raises:
        TaskError: the batch has no such leaf.
    """
    leaves = list(_leaves(batch))
    for leaf in leaves:
        if isinstance(leaf, Tensor) and leaf.dim():
            return int(leaf.shape[0])
    for leaf in leaves:
        if _is_column(leaf):
            return len(leaf)
    raise TaskError(
        f"expected a batch with tensors in tuples, lists or dicts, got {type(batch).__name__} without a tensor: "
        "let `collate` return one"
    )


def rows(batch: Any, start: int, stop: int, size: int) -> Any:
    """The rows from `start` to before `stop` of a batch with B = `size` rows, as a smaller batch."""
    return _map(batch, size, lambda leaf: leaf[start:stop], lambda leaf: leaf[start:stop])


def select(batch: Any, chosen: list[int], size: int) -> Any:
    """The rows at the positions `chosen` of a batch with B = `size` rows."""
    return _map(batch, size, lambda leaf: leaf[chosen], lambda leaf: _pick(leaf, chosen))


def row_tensors(batch: Any, size: int) -> list[Tensor]:
    """All tensors of a batch that belong to its rows, each [B, ...]."""
    found: list[Tensor] = []
    _map(batch, size, lambda leaf: found.append(leaf), lambda leaf: leaf)
    return found


def has_columns(batch: Any, size: int) -> bool:
    """Whether leaves other than tensors belong to the rows."""
    found: list[Any] = []
    _map(batch, size, lambda leaf: leaf, lambda leaf: found.append(leaf))
    return bool(found)


def with_tensors(batch: Any, size: int, tensors: list[Tensor]) -> Any:
    """`batch` with `tensors` in the places of `row_tensors(batch, size)`."""
    replacements = iter(tensors)
    return _map(batch, size, lambda leaf: next(replacements), lambda leaf: leaf)


def convert(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """`batch` with every tensor changed."""
    if isinstance(batch, Tensor):
        return change(batch)
    return _rebuild(batch, lambda child: convert(child, change))


def _is_column(node: Any) -> bool:
    """Whether `node` is an array, or a list or tuple of plain values."""
    if isinstance(node, np.ndarray):
        return node.ndim > 0
    if not isinstance(node, (list, tuple)) or not node:
        return False
    return not any(isinstance(item, (Tensor, np.ndarray, list, tuple, Mapping)) for item in node)


def _pick(column: Any, chosen: list[int]) -> Any:
    if isinstance(column, np.ndarray):
        return column[chosen]
    return type(column)(column[i] for i in chosen)


def _map(node: Any, size: int, on_tensor: Cut, on_column: Cut) -> Any:
    if isinstance(node, Tensor):
        return on_tensor(node) if node.dim() and node.shape[0] == size else node
    if _is_column(node):
        return on_column(node) if len(node) == size else node
    return _rebuild(node, lambda child: _map(child, size, on_tensor, on_column))


def _rebuild(node: Any, change: Cut) -> Any:
    """`node` with its children changed; a leaf is returned as it is."""
    if isinstance(node, tuple):
        children = [change(item) for item in node]
        return type(node)(*children) if hasattr(node, "_fields") else tuple(children)
    if isinstance(node, list):
        return [change(item) for item in node]
    if isinstance(node, MutableMapping):
        changed = copy.copy(node)
        changed.update({key: change(value) for key, value in node.items()})
        return changed
    if isinstance(node, Mapping):
        return {key: change(value) for key, value in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        fields = {field.name: change(getattr(node, field.name)) for field in dataclasses.fields(node) if field.init}
        return dataclasses.replace(node, **fields)
    return node


def _leaves(node: Any) -> Iterator[Any]:
    """Tensors, columns and whatever else stands at the ends of the nesting, in order."""
    if isinstance(node, Tensor) or _is_column(node):
        yield node
        return
    found: list[Any] = []
    _rebuild(node, lambda child: found.append(child))
    for child in found:
        yield from _leaves(child)
