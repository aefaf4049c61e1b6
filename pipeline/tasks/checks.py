"""What can be known of a task before any work: its sizes, its classes, and whether its parts fit one another.

A fresh model sees a few rows of each split, in eval mode and without gradients. Whether the losses are
finite and of the shape [B] is checked where they are used. Letters: N train, M validation, Q query rows, C classes, B
rows of the probe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import DataError, InputError, TaskError
from pipeline.tasks.base import Batch, Task, classifies, trains
from pipeline.tasks.blame import blame, file_of
from pipeline.tasks.rows import CPU, RowSet

PROBE_ROWS = 8  # spread over a split, so that sorted labels are seen too


@dataclass(frozen=True)
class Facts:
    """What a task is.

    Attributes:
        train: N, the number of train rows.
        validation: M, the number of validation rows.
        query: Q, the number of query rows; 0 is allowed.
        classes: C, or None where the task is no classification and names no classes.
        class_names: [C] names, "0" to "C - 1" where the task gives none, or None with `classes`.
        trains: whether the task brings its own training.
        classifies: whether the task has logits.
        labelled: whether the given labels are known.
        truth_known: whether true labels are known.
        parts: of a row's loss.
    """

    train: int
    validation: int
    query: int
    classes: int | None
    class_names: tuple[str, ...] | None
    trains: bool
    classifies: bool
    labelled: bool
    truth_known: bool
    parts: int = 1


@dataclass(frozen=True)
class Probe:
    """A few rows of the train split and the fresh model that saw them."""

    model: nn.Module
    batch: Batch
    indices: list[int]
    logits: Tensor | None  # [B, C]
    loss: Tensor


def check_task(task: Task) -> Facts:
    """The facts of `task`, or the first thing that is wrong with it.

    Raises:
        DataError: empty splits, rows that cannot be read or collated, labels that are not 0 to C - 1 or not N of them.
        TaskError: a model, loss, logits, relabel or loss_part that does not work.
    """
    sets = {split: row_set(task, split) for split in ("train", "validation", "query")}
    _check_sizes(task, sets)
    probe = _probe(task, sets)
    names = None if task.classes is None else tuple(str(name) for name in task.classes)
    classes = _class_count(task, probe, names)
    _check_labels(task, len(sets["train"]), classes)
    _check_truth(task, len(sets["train"]), classes)
    _check_groups(task, sets)
    if probe.logits is not None and task.labels is not None:
        _check_relabel(task, probe)
    _check_parts(task, probe)
    return Facts(
        train=len(sets["train"]),
        validation=len(sets["validation"]),
        query=len(sets["query"]),
        classes=classes,
        class_names=names or (None if classes is None else tuple(str(i) for i in range(classes))),
        trains=trains(task),
        classifies=classifies(task),
        labelled=task.labels is not None,
        truth_known=task.true_labels is not None,
        parts=task.loss_parts,
    )


def row_set(task: Task, split: str, device: torch.device = CPU) -> RowSet:
    """The rows of a split, "train", "validation" or "query", in batches on a device.

    Raises:
        DataError: the dataset is not map-style.
        TaskError: the task's method failed.
    """
    makers = {"train": task.train_rows, "validation": task.validation_rows, "query": task.query_rows}
    return RowSet(task, _call(task, f"{split}_rows()", makers[split]), split, device)


def _call(task: Task, what: str, function: Any, *arguments: Any) -> Any:
    """`function(*arguments)`; an exception becomes a TaskError that names the task, the method and the user's line."""
    try:
        return function(*arguments)
    except InputError:
        raise
    except Exception as error:
        name = type(task).__name__
        raise TaskError(f"expected {name}.{what} to work, got {blame(error, file_of(task))}; mend it there") from error


def _check_sizes(task: Task, sets: dict[str, RowSet]) -> None:
    for split in ("train", "validation"):  # no query rows is allowed: they can be asked for later
        if not len(sets[split]):
            raise DataError(
                f"expected {split} rows, got none from {type(task).__name__}.{split}_rows(); give at least one"
            )


def _probe(task: Task, sets: dict[str, RowSet]) -> Probe:
    """A fresh model on a few rows of every split; what it saw of the train rows is kept."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = _fresh_model(task)
        probes = {split: _probe_split(task, model, rows) for split, rows in sets.items() if len(rows)}
    return probes["train"]


def _fresh_model(task: Task) -> nn.Module:
    name = type(task).__name__
    model = _call(task, "model()", task.model)
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"expected {name}.model() to return a torch.nn.Module, got {type(model).__name__}; return the model"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TaskError(f"expected {name}.model() to have trainable parameters, got none; set requires_grad on some")
    return model.eval()


def _probe_split(task: Task, model: nn.Module, rows: RowSet) -> Probe:
    indices = sorted({int(i) for i in np.linspace(0, len(rows) - 1, min(PROBE_ROWS, len(rows)))})
    batch = rows.batch(indices)
    loss = _call(task, f"loss() on {len(indices)} {rows.split} rows", _seeded_loss, task, model, batch)
    _check_loss(task, loss, len(indices))
    logits = None
    if classifies(task):
        logits = _call(task, f"logits() on {len(indices)} {rows.split} rows", task.logits, model, batch)
        _check_logits(task, logits, len(indices))
    return Probe(model, batch, indices, logits, loss)


def _seeded_loss(task: Task, model: nn.Module, batch: Batch) -> Tensor:
    torch.manual_seed(0)  # a loss may draw noise; two calls then differ by their batches alone
    return task.loss(model, batch)


def _check_loss(task: Task, loss: Any, count: int) -> None:
    shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
    if shape != [count]:
        raise TaskError(
            f"expected {type(task).__name__}.loss() of shape [{count}], one value a row, got {shape}; "
            "return losses with reduction='none', averaged over all dimensions but the first"
        )


def _check_logits(task: Task, logits: Any, count: int) -> None:
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not (isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] == count and logits.shape[1] > 1):
        raise TaskError(
            f"expected {type(task).__name__}.logits() of shape [{count}, C] with C >= 2, got {shape}; "
            "return one row of class scores for each row of the batch"
        )


def _class_count(task: Task, probe: Probe, names: tuple[str, ...] | None) -> int | None:
    if probe.logits is None:
        return None if names is None else len(names)
    count = int(probe.logits.shape[1])
    if names is not None and len(names) != count:
        raise TaskError(
            f"expected {count} names in {type(task).__name__}.classes, as logits have {count} columns, "
            f"got {len(names)}; name every class once"
        )
    return count


def _integers(values: Sequence[int], what: str, count: int) -> np.ndarray[Any, Any]:
    """`values` as [count] integers."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or len(array) != count:
        raise DataError(
            f"expected {what} of shape [{count}], one a train row, got {list(array.shape)}; "
            "keep labels and train_rows() in the same order and number"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"expected {what} as integers, got {array.dtype}; number the classes from 0")
    return array


def _check_range(labels: np.ndarray[Any, Any], what: str, lowest: int, classes: int | None) -> None:
    highest = int(labels.max()) if classes is None else classes - 1
    outside = np.flatnonzero((labels < lowest) | (labels > highest))
    if len(outside):
        raise DataError(
            f"expected {what} from {lowest} to {highest}, got {int(labels[outside[0]])} in train row {int(outside[0])} "
            f"({len(outside)} in all); number the classes from 0 and let the model have one output for each"
        )


def _check_labels(task: Task, count: int, classes: int | None) -> None:
    given = _call(task, "labels", lambda: task.labels)
    if given is None:
        return
    labels = _integers(given, "labels", count)
    _check_range(labels, "labels", 0, classes)
    if len(np.unique(labels)) < 2:
        raise DataError(
            f"expected labels of at least two classes, got {int(labels[0])} for all {count} train rows; "
            "give rows of other classes too, or no `labels`"
        )


def _check_truth(task: Task, count: int, classes: int | None) -> None:
    true = _call(task, "true_labels", lambda: task.true_labels)
    if true is not None:
        _check_range(_integers(true, "true_labels", count), "true_labels (-1: unknown)", -1, classes)


def _check_groups(task: Task, sets: dict[str, RowSet]) -> None:
    for split in ("train", "query"):
        groups, count = _call(task, f"groups({split!r})", task.groups, split), len(sets[split])
        if groups is None:
            continue
        if isinstance(groups, str) or not isinstance(groups, Sequence) or len(groups) != count:
            got = f"{len(groups)} of them" if isinstance(groups, Sequence) and not isinstance(groups, str) else "others"
            raise DataError(
                f"expected groups({split!r}) to be a list of the group of each of {count} {split} rows, got {got}; "
                "give one a row, in the order of the rows"
            )
        strange = next((row for row, group in enumerate(groups) if not isinstance(group, str)), None)
        if strange is not None:
            raise DataError(
                f"expected groups({split!r}) to be names, got {groups[strange]!r} for row {strange}; write str(...)"
            )


def _check_relabel(task: Task, probe: Probe) -> None:
    """Relabelling with the given labels must change nothing: it shows labels that belong to other rows, too."""
    assert task.labels is not None
    labels = torch.as_tensor([int(task.labels[i]) for i in probe.indices])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        batch = _call(task, "relabel()", task.relabel, probe.batch, labels)
        loss = _call(task, "loss() after relabel()", _seeded_loss, task, probe.model, batch)
    if loss.shape == probe.loss.shape and not torch.allclose(loss, probe.loss, rtol=1e-3, atol=1e-5, equal_nan=True):
        row = probe.indices[int((loss - probe.loss).abs().reshape(len(labels), -1).sum(1).argmax())]
        raise DataError(
            f"expected the loss of train row {row} to stay as it is when it is given its own label, got another; "
            "keep `labels` in the order of train_rows(), or write Task.relabel"
        )


def _check_parts(task: Task, probe: Probe) -> None:
    """The parts of a loss are as many as the task says, and sum to it."""
    name = type(task).__name__
    count: object = task.loss_parts
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise TaskError(f"expected {name}.loss_parts to be a whole number from 1 up, got {count!r}; mend it there")
    if count == 1:
        return
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        total = torch.zeros_like(probe.loss)
        for i in range(count):
            batch = _call(task, f"loss_part(batch, {i})", task.loss_part, probe.batch, i)
            total += _call(task, f"loss() of part {i}", _seeded_loss, task, probe.model, batch)
    if not torch.allclose(total, probe.loss, rtol=1e-3, atol=1e-5, equal_nan=True):
        row = probe.indices[int((total - probe.loss).abs().argmax())]
        raise TaskError(
            f"expected the losses of the {count} parts of train row {row} to sum to its loss, got another sum; "
            f"mend {name}.loss_part"
        )
