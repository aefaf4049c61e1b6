"""What a capture is planned to hold in memory and what it does hold: projected against resident bytes.

The plan is made as the `projection` stage makes it, in a process of its own. In another, fresh one the capture sets up
model, engine and projection and captures four batches, encoded as for a store; most bytes resident meanwhile are
counted beside those of the interpreter, its libraries and their code, which one row has brought into memory before.

The second table is on captures of ever wider models: P grows with the square of the width, activations with the width.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.models import case, loss
from benchmarks.tables import keep
from benchmarks.timing import _forget_peak, _status, _trim, one_thread
from pipeline.config import load
from pipeline.core import compiled
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import Codec
from pipeline.core.memory import FRESH, Plan, Watch, measure
from pipeline.core.projection import Projection, Settings, State, fitter, make
from pipeline.steps.capture import Captured, stored_columns

BUDGET_BYTES = 2**34
BATCHES = 4
MB = 10**6


@dataclass(frozen=True)
class Work:
    """A capture: model, B, T, projection and K; width of the hidden layers where the model is `wide`."""

    model: str
    rows: int
    positions: int
    method: str
    dimension: int
    width: int = 0
    engine: str = "auto"


WORKS = [
    Work("mlp", 64, 1, "sjlt", 1024), Work("mlp", 256, 1, "sjlt", 1024), Work("mlp", 256, 1, "kronecker", 4096),
    Work("mlp", 256, 1, "eigenbasis", 1024), Work("mlp", 64, 1, "sjlt", 1024, engine="functional"),
    Work("cnn", 16, 1, "kronecker", 1024), Work("cnn", 64, 1, "kronecker", 1024), Work("cnn", 128, 1, "sjlt", 1024),
    Work("transformer", 16, 64, "kronecker", 4096), Work("transformer", 64, 64, "kronecker", 1024),
    Work("transformer", 64, 64, "eigenbasis", 1024), Work("transformer", 16, 256, "sjlt", 1024),
]  # fmt: skip
WIDE = [Work("wide", rows, 1, "kronecker", 1024, width) for width in (512, 1024, 2048) for rows in (1, 256)]

Batch = tuple[torch.Tensor, torch.Tensor]


def model_of(work: Work) -> nn.Module:
    """The model, from a fixed seed."""
    if work.model != "wide":
        return case(work.model).model
    torch.manual_seed(0)
    sizes = [64, work.width, work.width, work.width, 10]
    layers = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def batch_of(work: Work, rows: int) -> Batch:
    """A batch of random rows."""
    torch.manual_seed(1)
    if work.model == "transformer":
        return torch.randint(512, (rows, work.positions)), torch.randint(512, (rows, work.positions))
    inputs = {"mlp": (784,), "cnn": (3, 32, 32), "wide": (64,)}[work.model]
    return torch.randn(rows, *inputs), torch.randint(10, (rows,))


class Capture:
    """Set up as a job does it; `run` captures and encodes a batch."""

    def __init__(self, work: Work, state: State | None = None) -> None:
        compiled.load()
        self.work, self.model, self.encoding = work, model_of(work), load().gradients.codec
        self.shapes = {name: tuple(value.shape) for name, value in self.model.named_parameters()}
        self.covered: Coverage = cover(self.model, loss, tuple(self.shapes), batch_of(work, 2), work.engine)  # type: ignore[arg-type]
        self.projection: Projection | None = None
        if work.method != "eigenbasis" or state:
            self.projection = make(work.method, self.shapes, work.dimension, 0, state)

    def fit(self) -> None:
        """Fit the projection, where that is needed, on noise."""
        fitting = fitter(self.work.method, self.shapes, self.work.dimension, 0, Settings())
        while not fitting.done:
            for _ in range(8):
                with fitting.batch(16) as sink:
                    self.covered.engine.capture(batch_of(self.work, 16), sink)
            fitting.end_pass()
        self.projection = self.projection or fitting.projection()

    def run(self, rows: int) -> None:
        """Capture a batch."""
        assert self.projection is not None
        sketch = self.projection.sketch(rows, norms="estimated")
        losses = self.covered.engine.capture(batch_of(self.work, rows), sketch).double().numpy()
        codes, norms = sketch.codes().float().numpy(), sketch.squared_norms().numpy()
        codec = Codec(self.encoding, np.ones(codes.shape[1], np.float32))
        stored_columns(codec, Captured(codes, norms, np.zeros(rows), losses, np.zeros(rows, np.uint8)))


def planned(work: Work, scratch: Path) -> dict[str, Any]:
    """The plan; a fitted state goes to `scratch`."""
    with Watch() as watch:
        capture = Capture(work)
        setup = watch.mapped_peak
        capture.fit()
        assert capture.projection is not None
        state = capture.projection.state()
        np.savez(scratch, **state)
        setup += int(2 * FRESH * sum(values.nbytes for values in state.values()))
        del state
        plan: Plan = measure(watch, capture.run, setup, BUDGET_BYTES, work.rows)
    return {
        "planned": plan.held(work.rows),
        "setup": setup,
        "parameters": sum(p.numel() for p in capture.model.parameters()),
    }


def measured(work: Work, scratch: Path) -> dict[str, Any]:
    """Most resident bytes beside those before."""
    with np.load(scratch) as arrays:
        state = dict(arrays) or None
    warm = Capture(replace(work, width=min(work.width, 64)), state)  # a large one would change how the heap grows
    warm.run(1)
    del warm, state
    gc.collect()
    _trim()
    before = _forget_peak()
    if before is None:
        raise SystemExit("expected Linux with /proc/self/clear_refs, got none: resident memory is not to be had here")
    with np.load(scratch) as arrays:
        state = dict(arrays) or None
    capture = Capture(work, state)
    del state
    for _ in range(BATCHES):
        capture.run(work.rows)
    return {"measured": _status("VmHWM") - before}


def in_a_process(what: str, work: Work, scratch: Path) -> dict[str, Any]:
    """`planned` or `measured` in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", what, json.dumps(asdict(work)), str(scratch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def rows_of(works: list[Work]) -> Iterator[dict[str, Any]]:
    """A row of the table for each capture."""
    for work in works:
        with tempfile.TemporaryDirectory() as directory:
            scratch = Path(directory) / "state.npz"
            found = {
                name: value
                for what in ("planned", "measured")
                for name, value in in_a_process(what, work, scratch).items()
            }
        yield {
            "model": f"{work.model} {work.width or ''}".strip(), "P": found["parameters"], "B": work.rows,
            "T": work.positions, "K": work.dimension, "projection": work.method, "engine": work.engine,
            "planned MB": found["planned"] / MB,
            "measured MB": found["measured"] / MB, "planned / measured": found["planned"] / found["measured"],
            "P x B in float32, MB": found["parameters"] * work.rows * 4 / MB,
        }  # fmt: skip
        print(f"{work}: {found}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure all, say what misses, and fail where a capture held more than planned."""
    rows = [*rows_of([*WORKS, *WIDE])]
    keep("memory", "python -m benchmarks memory", rows, unit="MB of 10^6 bytes")
    within = sum(0.8 * row["planned MB"] <= row["measured MB"] <= row["planned MB"] for row in rows)
    print(f"{within} of {len(rows)} captures stay within their plan and take at least 80 % of it")
    over = [row for row in rows if row["planned / measured"] < 1]
    if over:
        raise SystemExit(f"expected measured <= planned, got more for {', '.join(row['model'] for row in over)}")


if __name__ == "__main__":
    one_thread()
    job = {"planned": planned, "measured": measured}[sys.argv[1]]
    print(json.dumps(job(Work(**json.loads(sys.argv[2])), Path(sys.argv[3]))))
