"""How one capture is measured against the floor. Needs torch alone: peers are timed by the same code as Lowland.

The floor is a plain forward and backward pass of the summed loss with the parameters' gradients: it computes all that
per-sample gradients need. Floor and capture run in turn in one process on one thread, so that a change of the machine's
speed hits both; a ratio takes the faster of the floors before and after. Peak memory comes from a run of its own.
"""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.models import Case, loss

RUNS = 5
PROBED = 8
"""Batches whose time, but for that of one, tells what a batch takes without what a run begins with."""
BUDGET_S = 30.0
"""A capture whose runs take longer than that together has fewer of them, at least one."""


@dataclass(frozen=True)
class Work:
    """One way to capture.

    Attributes:
        method: what it does, in a few words.
        size: K, how many numbers a row has in the end, or words where there is none.
        run: captures the case's batch that many times.
        note: what a reader of the ratio must know.
    """

    method: str
    size: int | str
    run: Callable[[int], object]
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """Ratios to the floor, and the bytes that a run needs beside what was resident before; None: not to be had."""

    ratio_min: float | None = None
    ratio_median: float | None = None
    ratio_max: float | None = None
    runs: int = 0
    peak_bytes: int | None = None


def one_thread() -> None:
    """Measure on one thread."""
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)


def repeated(step: Callable[[], Any]) -> Callable[[int], None]:
    """The `run` of a capture that has no cost beside its batches."""

    def run(batches: int) -> None:
        for _ in range(batches):
            step()

    return run


def floor(case: Case, batches: int = 1) -> None:
    """A plain forward and backward pass of the summed loss."""
    for _ in range(batches):
        case.model.zero_grad(set_to_none=True)
        loss(case.model, case.batch).sum().backward()


def floor_work(case: Case) -> Work:
    """The floor as a capture: its ratio to itself tells the noise."""
    return Work("forward + backward of the summed loss", "-", lambda batches: floor(case, batches))


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(case: Case, reference: Case, work: Work, runs: int = RUNS, budget_s: float = BUDGET_S) -> Measured:
    """Ratios of a capture to the floor of `reference`, the case with a model of its own that no hooks hang on."""
    floor(reference)
    held, first = peak(case, lambda: work.run(1))
    if first > budget_s / 2:  # once is all that there is time for
        ratio = first / min(seconds(lambda: floor(reference)) for _ in range(2))
        return Measured(ratio, ratio, ratio, 1, held)
    each = max((seconds(lambda: work.run(PROBED)) - first) / (PROBED - 1), first / PROBED) if first < 1 else first
    batches = min(case.batches, max(1, int(budget_s / (each * runs))))
    runs = min(runs, max(1, int(budget_s / (each * batches))))
    found = ratios(lambda: floor(reference, batches), lambda: work.run(batches), runs)
    held, _ = peak(case, lambda: work.run(1))
    return Measured(min(found), statistics.median(found), max(found), runs, held)


def ratios(bottom: Callable[[], object], work: Callable[[], object], runs: int) -> list[float]:
    """Ratios of `work` to the faster of the floors before and after it."""
    found = []
    for _ in range(runs):
        before = seconds(bottom)
        own = seconds(work)
        found.append(own / min(before, seconds(bottom)))
    return found


def peak(case: Case, work: Callable[[], object]) -> tuple[int | None, float]:
    """Most bytes resident during a call beyond those before it, where the system tells (Linux), and its seconds."""
    case.model.zero_grad(set_to_none=True)
    gc.collect()
    _trim()
    before = _forget_peak()
    spent = seconds(work)
    if before is None:
        return None, spent
    return max(0, _status("VmHWM") - before), spent


def _forget_peak() -> int | None:
    """Start the system's record of the peak anew; bytes resident now."""
    if sys.platform != "linux":
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def _status(field: str) -> int:
    """A field of the process's status, in bytes."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    assert found, f"no {field} in /proc/self/status"
    return 1024 * int(found[1])


def _trim() -> None:
    """Give freed memory back to the system, or a run would use it unseen."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others do not
        if trim is not None:
            trim(0)


def row(case: Case, engine: str, work: Work, measured: Measured) -> dict[str, Any]:
    """A row of the table."""
    found = asdict(measured)
    runs = found.pop("runs")
    short = f"{runs} run{'s' * (runs != 1)}" if 0 < runs < RUNS else ""
    note = "; ".join(part for part in (work.note, short) if part)
    return {"model": case.name, "engine": engine, "method": work.method, "K": work.size, **found, "note": note}
