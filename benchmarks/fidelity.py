"""What compression does to pairwise influence: each projection at equal bytes a row against the whole gradients.

Truth: signed influence u^T g of every train row on every query, u = (F + lambda)^-1 g_query, F = (1/M) sum of the
validation rows' g g^T, lambda = tr(F)/M, uncompressed in float64. A compressed answer is computed like that from its
codes alone. recall@10: the share of the ten most helpful rows (and of the ten most harmful) of a query that the codes
put among their ten; Spearman: rank correlation over all train rows. Means over the queries. Inner products of rows of
different norm are what is asked for: scores that norms dominate would look well under any projection.

Bytes a row: K x 4 in float32; K + 16 in int8 (row scale and norms beside the codes).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from benchmarks.tables import keep
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import fit_codec
from pipeline.core.curvature import absolute_damping, spectrum_of_roots, spectrum_of_sum
from pipeline.core.preconditioner import Preconditioner
from pipeline.core.projection import Projection, Settings, fitter
from pipeline.tasks.digits import Digits
from pipeline.tasks.models import mlp

BYTES = (256, 1024, 4096)
BATCH = 100
SIZES = {"train_size": 1300, "validation_size": 300, "query_size": 197}
SAMPLE = 650
"""Train rows that fit a projection; the others fit the codec, as rows that it was fitted on flatter a projection."""
SELECTED = 4096
METHODS = ("eigenbasis", "eigenbasis+PCA", "sjlt", "dmin", "kronecker")
Array = np.ndarray[Any, Any]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A trained model and the rows of each split."""

    name: str
    task: Digits
    model: nn.Module
    splits: dict[str, Batch]


def cases() -> Iterator[Case]:
    """An MLP and a CNN with norm layers on digits, 20 % of the train labels wrong, trained until most are learnt."""
    task = Digits(**SIZES, noise="uniform", noise_rate=0.2, epochs=30)
    splits = {"train": task.train_rows(), "validation": task.validation_rows(), "query": task.query_rows()}
    batches = {split: default_collate([rows[i] for i in range(len(rows))]) for split, rows in splits.items()}
    for name, make_model in (("MLP 64-256-128-10", lambda: mlp([64, 256, 128, 10])), ("CNN 16-32-64, GroupNorm", cnn)):
        torch.manual_seed(0)
        model = make_model()
        task.train(model)
        yield Case(name, task, model, batches)


def cnn() -> nn.Module:
    """Three convolutions with GroupNorm on 8 x 8 pixels."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))


def batches(rows: Batch) -> Iterator[Batch]:
    """Rows in batches."""
    return zip(rows[0].split(BATCH), rows[1].split(BATCH), strict=True)


def captured(coverage: Coverage, projection: Projection, rows: Batch) -> Array:
    """Codes [n, K] in the dtype of the images."""
    found = []
    for batch in batches(rows):
        sketch = projection.sketch(len(batch[1]), batch[0].dtype)
        coverage.engine.capture(batch, sketch)
        found.append(sketch.codes().numpy())
    return np.concatenate(found)


def influence(codes: dict[str, Array]) -> Array:
    """Signed influence of all train rows on all queries, [q, n]."""
    rows = codes["validation"].astype(np.float64)
    spectrum = (
        spectrum_of_roots(rows, len(rows)) if len(rows) < rows.shape[1] else spectrum_of_sum(rows.T @ rows, len(rows))
    )
    vectors = Preconditioner(spectrum, absolute_damping(spectrum, 1.0)).solve(codes["query"])
    scores: Array = vectors @ codes["train"].astype(np.float64).T
    return scores


def coverage_of(case: Case) -> Coverage:
    """The engine that `auto` takes."""
    images, labels = case.splits["train"]
    return cover(case.model, case.task.loss, tuple(shapes_of(case.model)), (images[:2], labels[:2]))


def exact(case: Case) -> Array:
    """The truth, [q, n]: identity in float64."""
    splits = {split: (images.double(), labels) for split, (images, labels) in case.splits.items()}
    double = replace(case, model=copy.deepcopy(case.model).double(), splits=splits)
    projection, coverage = fitter("identity", shapes_of(double.model), 1, 0).projection(), coverage_of(double)
    return influence({split: captured(coverage, projection, rows) for split, rows in splits.items()})


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter to shape."""
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def fitted(case: Case, coverage: Coverage, method: str, dimension: int) -> Projection:
    """The projection of a method, fitted on train rows where it is one that is."""
    kind, _, second = method.partition("+")
    work = fitter(kind, shapes_of(case.model), dimension, 0, Settings(selected=SELECTED if second else dimension))
    while not work.done:
        for batch in batches((case.splits["train"][0][:SAMPLE], case.splits["train"][1][:SAMPLE])):
            with work.batch(len(batch[1])) as sink:
                coverage.engine.capture(batch, sink)
        work.end_pass()
    return work.projection()


def recall(found: Array, truth: Array, k: int = 10) -> float:
    """Mean share of each row's k largest entries that are among the k largest of the truth."""
    best = [np.argpartition(-scores, k, 1)[:, :k] for scores in (found, truth)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*best, strict=True)]))


def spearman(found: Array, truth: Array) -> float:
    """Mean rank correlation over the rows."""
    ranks = [scores.argsort(1).argsort(1) for scores in (found, truth)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def encodings(size_bytes: int) -> dict[str, int]:
    """Encoding to the K that fits into so many bytes a row."""
    return {"int8": size_bytes - 16, "float32": size_bytes // 4}


def measured(case: Case, method: str, coverage: Coverage, truth: Array, size_bytes: int) -> Iterator[dict[str, Any]]:
    """One row a fitting encoding."""
    for encoding, dimension in encodings(size_bytes).items():
        projection = fitted(case, coverage, method, dimension)
        codes = {split: captured(coverage, projection, rows) for split, rows in case.splits.items()}
        codec = fit_codec(encoding, codes["train"][SAMPLE:])
        scores = influence({split: codec.round_trip(values) for split, values in codes.items()})
        yield {
            "model": case.name, "bytes a row": size_bytes, "projection": method, "dtype": encoding,
            "K": projection.dimension, "recall@10 top": recall(scores, truth),
            "recall@10 bottom": recall(-scores, -truth), "Spearman": spearman(scores, truth),
        }  # fmt: skip


def main() -> None:
    """Measure all cases, sizes and projections."""
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        truth, coverage = exact(case), coverage_of(case)
        for size_bytes in BYTES:
            for method in METHODS:
                rows += measured(case, method, coverage, truth, size_bytes)
                print(f"{case.name}: {method} in {size_bytes} bytes done", flush=True)
    keep("fidelity", "python -m benchmarks fidelity", rows, splits=SIZES, sample=SAMPLE, selected=SELECTED)


if __name__ == "__main__":
    main()
