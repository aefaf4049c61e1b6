"""What compression does to pairwise influence: each projection at equal bytes a row against the whole gradients.

Truth, uncompressed in float64, with F = (1/M) sum of the validation rows' g g^T and lambda = tr(F)/M:

* influence: u^T g of every train row on every query, u = (F + lambda)^-1 g_query;
* cosine: g_query^T g / (|g_query| |g|);
* S = g^T (F + lambda)^-1 g of every train row.

A compressed answer is computed like that from the codes alone, as the product does. recall@10: the share of a query's
ten rows of largest influence (top) and of smallest (bottom), or of largest cosine, that the codes put among their ten.
Spearman: rank correlation over the train rows, for each query; for S the only one. Means over the queries, then over
the seeds, which draw splits, noise, weights and projections; the spread is the largest minus the smallest over the
seeds, of that measure which differs most. Pairs are what is asked for: norms dominate S under any projection.

Bytes a row: at most so many for K codes in the dtype, the block scales of mixed and int8, and 16 bytes of row scale and
norms, as in the store. A projection is fitted on the first half of the train rows and on the validation rows. The other
train rows are those that are asked for, and fit column scales and the turn of all but float32. Neither sees a query.
`eigenbasis` is the selection alone, `eigenbasis+groups` with the second step as the product takes it by default for the
model, `eigenbasis+PCA` with one PCA of 4,096 coordinates, or of four times K up to 8,192 (while K is at most 4,096).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import nn

from benchmarks.fidelity_models import SIZES, Batch, Case, cases
from benchmarks.tables import keep
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import fit_codec
from pipeline.core.curvature import absolute_damping, spectrum_of_roots, spectrum_of_sum
from pipeline.core.influence import pairwise, unit
from pipeline.core.mixed import AVERAGE_BITS
from pipeline.core.preconditioner import Preconditioner
from pipeline.core.projection import METHODS, Projection, Settings, fitter, turned
from pipeline.core.rounding import BLOCK
from pipeline.core.sink import Several

BYTES = (256, 1024, 4096)
BESIDE = 16
"""Bytes of a row's scale and norms."""
WIDTHS = {"mixed": AVERAGE_BITS / 8 + 1 / BLOCK, "int8": 1 + 1 / BLOCK, "bf16": 2, "float32": 4}
"""Bytes of a code, its share of a block scale included."""


def room(size_bytes: int, encoding: str) -> int:
    """The largest K that fits, of mixed codes the largest multiple of 512, as one would take."""
    count = int((size_bytes - BESIDE) / WIDTHS[encoding])
    return count // 512 * 512 if encoding == "mixed" else count


CODES = [(size, kind) for size in BYTES for kind in ("mixed", "int8", "bf16")]
DIMENSIONS = sorted({room(*each) for each in [*CODES, (BYTES[0], "float32")]})
"""All K that mixed, int8 and bf16 have room for, and the least of float32, which takes its others from among these."""
LARGEST_PCA = 4096
SEEDS = (0, 1)
BATCH = 100
SAMPLE = 650
"""Train rows that fit a projection. They are not asked for: a projection keeps the rows that it was fitted on best."""
PROJECTIONS = (
    "eigenbasis",
    "eigenbasis+groups",
    "eigenbasis+PCA",
    "sjlt",
    "dmin",
    "tensorsketch",
    "kronecker",
    "kronecker_pca",
)
K = 10
MEASURES = (
    "recall@10 top", "recall@10 bottom", "Spearman", "cosine recall@10", "cosine Spearman", "S Spearman",
)  # fmt: skip
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Answers:
    """What rows say of each other.

    Attributes:
        influence: signed, of train rows on queries, [q, n].
        cosine: [q, n].
        s: S of the train rows, [n].
    """

    influence: Array
    cosine: Array
    s: Array


def answers(codes: dict[str, Array]) -> Answers:
    """From the rows of each split, [*, K]."""
    validation, query, train = (codes[split].astype(np.float64) for split in ("validation", "query", "train"))
    few = len(validation) < validation.shape[1]
    spectrum = (
        spectrum_of_roots(validation, len(validation))
        if few
        else spectrum_of_sum(validation.T @ validation, len(validation))
    )
    inverse = Preconditioner(spectrum, absolute_damping(spectrum, 1.0))
    s = [inverse.forms(part).s for part in np.array_split(train, max(1, len(train) // BATCH))]
    return Answers(
        pairwise("influence", inverse.solve(query), train), pairwise("cosine", query, train), np.concatenate(s)
    )


def compared(found: Answers, truth: Answers) -> dict[str, float]:
    """The measures."""
    values = (
        recall(found.influence, truth.influence),
        recall(-found.influence, -truth.influence),
        spearman(found.influence, truth.influence),
        recall(found.cosine, truth.cosine),
        spearman(found.cosine, truth.cosine),
        spearman(found.s[None], truth.s[None]),
    )
    return dict(zip(MEASURES, values, strict=True))


def recall(found: Array, truth: Array, k: int = K) -> float:
    """Mean share of each row's k largest entries that are among the k largest of the truth."""
    best = [np.argpartition(-scores, k - 1, 1)[:, :k] for scores in (found, truth)]
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(*best, strict=True)]))


def spearman(found: Array, truth: Array) -> float:
    """Mean rank correlation over the rows."""
    ranks = [scores.argsort(1).argsort(1) for scores in (found, truth)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


def batches(rows: Batch) -> Iterator[Batch]:
    """Rows in batches."""
    return zip(rows[0].split(BATCH), rows[1].split(BATCH), strict=True)


def captured(case: Case, coverage: Coverage, projections: Sequence[Projection]) -> list[dict[str, Array]]:
    """Codes [n, K] of each split in the dtype of the model, under each projection; all from one pass over the rows."""
    dtype = next(case.model.parameters()).dtype
    kind = torch.empty(0, dtype=dtype).numpy().dtype
    found: list[dict[str, Array]] = [{} for _ in projections]
    for split, rows in case.splits.items():
        for codes, projection in zip(found, projections, strict=True):
            codes[split] = np.empty((len(rows[1]), projection.dimension), kind)
        for start, batch in zip(range(0, len(rows[1]), BATCH), batches(rows), strict=True):
            sketches = [projection.sketch(len(batch[1]), dtype) for projection in projections]
            coverage.engine.capture(batch, Several(sketches))
            for codes, sketch in zip(found, sketches, strict=True):
                codes[split][start : start + BATCH] = sketch.codes().numpy()
    return found


def shapes_of(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Parameter to shape."""
    return {name: tuple(value.shape) for name, value in model.named_parameters()}


def coverage_of(case: Case) -> Coverage:
    """The engine that `auto` takes."""
    inputs, labels = case.splits["train"]
    return cover(case.model, case.loss, tuple(shapes_of(case.model)), (inputs[:2], labels[:2]))


def unseen(case: Case) -> Case:
    """The same with those train rows only that no projection is fitted on."""
    inputs, labels = case.splits["train"]
    return replace(case, splits={**case.splits, "train": (inputs[SAMPLE:], labels[SAMPLE:])})


def exact(case: Case) -> Answers:
    """The truth for all rows of a case: identity in float64."""
    splits = {
        split: (inputs.double() if inputs.is_floating_point() else inputs, labels)
        for split, (inputs, labels) in case.splits.items()
    }
    double = replace(case, model=copy.deepcopy(case.model).double(), splits=splits)
    projection = fitter("identity", shapes_of(double.model), 1, 0).projection()
    return answers(with_equal_products(captured(double, coverage_of(double), [projection])[0]))


def with_equal_products(rows: dict[str, Array]) -> dict[str, Array]:
    """Rows [*, n] of the same inner products as n rows [*, P]: all that answers depend on, and n is less than P.

    The products are those of rows of length 1, as a row's norm may be 1e-9 of another's.
    """
    units = [unit(part) for part in rows.values()]
    values, vectors = np.linalg.eigh(np.block([[left @ right.T for right in units] for left in units]))
    norms = np.concatenate([np.linalg.norm(part, axis=1) for part in rows.values()])
    made = norms[:, None] * vectors * np.sqrt(values.clip(0))
    return dict(zip(rows, np.split(made, np.cumsum([len(part) for part in units])[:-1]), strict=True))


def fitted(case: Case, coverage: Coverage, method: str, dimensions: Sequence[int], seed: int) -> list[Projection]:
    """The projections of a method, fitted together on train and validation rows where it is one that is."""
    kind, _, second = method.partition("+")
    works = [fitter(kind, shapes_of(case.model), each, seed, settings_of(second, each)) for each in dimensions]
    inputs, labels = case.splits["train"]
    own = inputs[:SAMPLE], labels[:SAMPLE]
    while waiting := [work for work in works if not work.done]:
        for batch in chain(batches(own), batches(case.splits["validation"])):
            with ExitStack() as stack:
                sinks = [stack.enter_context(work.batch(len(batch[1]))) for work in waiting]
                coverage.engine.capture(batch, Several(sinks))
        for work in waiting:
            work.end_pass()
    return [work.projection() for work in works]


def settings_of(second: str, dimension: int) -> Settings:
    """How a fitted projection is told about its second step."""
    return {
        "": Settings(selected=dimension),
        "groups": Settings(),
        "PCA": Settings(selected=max(4096, min(4 * dimension, 8192)), groups=1),
    }[second]


def budgets(dimension: int) -> list[tuple[int, str]]:
    """The bytes and encodings for which K = `dimension` is the largest of `DIMENSIONS` that fits."""
    found = []
    for size_bytes in BYTES:
        for encoding in WIDTHS:
            if dimension == max(k for k in DIMENSIONS if k <= room(size_bytes, encoding)):
                found.append((size_bytes, encoding))
    return found


def measured(
    case: Case, coverage: Coverage, truth: Answers, method: str, dimensions: Sequence[int], seed: int
) -> Iterator[dict[str, Any]]:
    """One row an encoding and size."""
    projections = fitted(case, coverage, method, dimensions, seed)
    codes = captured(unseen(case), coverage, projections)
    turns = [turned(each, own["train"])[0] for each, own in zip(projections, codes, strict=True)]
    axes = captured(unseen(case), coverage, turns)
    for dimension, projection, straight, own in zip(dimensions, projections, codes, axes, strict=True):
        for size_bytes, encoding in budgets(dimension):
            rows = straight if encoding == "float32" else own
            codec = fit_codec(encoding, rows["train"])
            found = answers({split: codec.round_trip(values) for split, values in rows.items()})
            yield {
                "model": case.name, "bytes": size_bytes, "projection": method, "dtype": encoding,
                "K": projection.dimension, **compared(found, truth),
            }  # fmt: skip


def over_seeds(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows that differ in their measures only as one: means, the widest spread and how many seeds there were."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(value for name, value in row.items() if name not in MEASURES), []).append(row)
    for group in groups.values():
        means = {name: float(np.mean([row[name] for row in group])) for name in MEASURES}
        spread = max(float(np.ptp([row[name] for row in group])) for name in MEASURES)
        yield {**group[0], **means, "spread": spread, "seeds": len(group)}


def main() -> None:
    """Measure all models, projections and sizes."""
    torch.set_num_threads(1)
    known = [method for method in PROJECTIONS if method.partition("+")[0] in METHODS]
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for seed in SEEDS:
            for case in cases(seed):
                rows += all_of(case, known, seed)
                print(f"{case.name}, seed {seed}: done", flush=True)
    made = sorted(over_seeds(rows), key=lambda row: (row["model"], row["bytes"], row["dtype"]))
    settings: dict[str, Any] = {**SIZES, "sample": SAMPLE, "seeds": SEEDS}
    keep("fidelity", "python -m benchmarks fidelity", made, by="model", **settings)


def all_of(case: Case, methods: Sequence[str], seed: int) -> Iterator[dict[str, Any]]:
    """All rows of a model."""
    truth, coverage = exact(unseen(case)), coverage_of(case)
    for method in methods:
        dimensions = [each for each in DIMENSIONS if method != "eigenbasis+PCA" or each <= LARGEST_PCA]
        yield from measured(case, coverage, truth, method, dimensions, seed)


if __name__ == "__main__":
    main()
