"""What capture costs: per-sample gradients in K numbers, over a plain forward and backward pass of the summed loss.

The floor computes all that per-sample gradients need (each layer's inputs and output gradients). Everything runs in one
process on one thread, floor and engine in turn, so that a change of the machine's speed hits both.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tables import keep
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.projection import Fitter, Projection, Settings, fitter

RUNS = 5
PROJECTIONS = (("kronecker", 1024, None), ("sjlt", 1024, None), ("dmin", 1024, None),
               ("eigenbasis", 1024, 1024), ("eigenbasis", 4096, 4096), ("eigenbasis", 1024, 4096))  # fmt: skip
"""Method, K, and the coordinates selected before a second step takes them down to K (eigenbasis alone)."""
SAMPLE = 512
"""Rows that fit a projection, at least: with few, the energy would stand in fewer directions than it does."""


@dataclass(frozen=True)
class Case:
    """A model, and a batch for it."""

    name: str
    model: nn.Module
    batch: tuple[Tensor, Tensor]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of each row, summed over positions where there are any: [B]."""
    logits, labels = model(batch[0]), batch[1]
    if logits.dim() == 3:
        return functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    return functional.cross_entropy(logits, labels, reduction="none")


def cases() -> list[Case]:
    """An MLP (T = 1), a CNN with norm layers and a transformer encoder of token predictions."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    cnn = nn.Sequential(
        *_block(3, 64), *_block(64, 64), nn.MaxPool2d(2), *_block(64, 128), *_block(128, 128),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    tokens = nn.Sequential(nn.Embedding(512, 192), *(Block(192) for _ in range(4)), nn.Linear(192, 512))
    return [
        Case("MLP 784-512-512-10, B 128", mlp, (torch.randn(128, 784), torch.randint(10, (128,)))),
        Case(
            "CNN 64-64-128-128 with GroupNorm, 32x32, B 32", cnn, (torch.randn(32, 3, 32, 32), torch.randint(10, (32,)))
        ),
        Case(
            "transformer d 192, 4 blocks, T 64, B 16",
            tokens,
            (torch.randint(512, (16, 64)), torch.randint(512, (16, 64))),
        ),
    ]


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()]


class Block(nn.Module):
    """A pre-norm transformer block whose attention is built from linear layers."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, positions, width = x.shape
        parts = self.qkv(self.before(x)).reshape(rows, positions, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, positions, width))
        return x + self.down(functional.gelu(self.up(self.between(x))))


def floor(case: Case) -> None:
    """A plain forward and backward pass of the summed loss."""
    case.model.zero_grad(set_to_none=True)
    loss(case.model, case.batch).sum().backward()


def engine(case: Case, method: str, dimension: int, selected: int | None) -> Callable[[], Any]:
    """Capture with the engine that `auto` takes, projected to K numbers a row."""
    shapes = {name: tuple(value.shape) for name, value in case.model.named_parameters()}
    probe = (case.batch[0][:2], case.batch[1][:2])
    covered = cover(case.model, loss, tuple(shapes), probe)
    projection = fitted(case, covered, fitter(method, shapes, dimension, 0, Settings(selected=selected)))
    rows = len(case.batch[0])

    def run() -> Any:
        sketch = projection.sketch(rows)
        covered.engine.capture(case.batch, sketch)
        return sketch.codes()

    return run


def fitted(case: Case, covered: Coverage, work: Fitter) -> Projection:
    """The projection, where it is one that is fitted on rows of noise as those of the batch."""
    rows = len(case.batch[0])
    while not work.done:
        generator = torch.Generator().manual_seed(0)
        for _ in range(-(-SAMPLE // rows)):
            order = torch.randperm(case.batch[0].numel(), generator=generator)
            batch = (case.batch[0].flatten()[order].view_as(case.batch[0]), case.batch[1])
            with work.batch(rows) as sink:
                covered.engine.capture(batch, sink)
        work.end_pass()
    return work.projection()


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratios(case: Case, work: Callable[[], Any]) -> list[float]:
    """`RUNS` ratios of `work` to the floor, each floor being the faster of one before and one after."""
    seconds(work), floor(case)
    found = []
    for _ in range(RUNS):
        before = seconds(lambda: floor(case))
        own = seconds(work)
        found.append(own / min(before, seconds(lambda: floor(case))))
    return found


def main() -> None:
    """Measure all cases and projections."""
    torch.set_num_threads(1)
    rows = []
    for case in cases():
        for method, dimension, selected in PROJECTIONS:
            found = ratios(case, engine(case, method, dimension, selected))
            rows.append({
                "model": case.name, "engine": "lowland", "projection": method, "K1": selected or "-", "K": dimension,
                "min": min(found), "median": statistics.median(found), "max": max(found),
            })  # fmt: skip
            print(f"{case.name}: {method} {dimension} {rows[-1]['median']:.2f} x the floor", flush=True)
    keep("capture", "python -m benchmarks capture", rows, threads=1, runs=RUNS, unit="ratio to forward + backward")


if __name__ == "__main__":
    main()
