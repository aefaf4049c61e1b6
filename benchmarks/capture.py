"""What capture costs: per-sample gradients in K numbers, over a plain forward and backward pass of the summed loss.

Lowland captures as its `gradients` stage does: codes encoded and, with scales, norms, losses and flags, written to a
store on disk within the timed part. The peers keep theirs in memory, each in the way that its documentation recommends
where that can be done; they run in an environment of their own and are timed by the same code (`benchmarks.timing`),
each beside a floor of its own process. K of a peer is as near to the default K of Lowland as its rules allow.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from benchmarks.models import CASES, Case, case, loss
from benchmarks.peers import NAMES, PEERS, rows_of, unmeasured
from benchmarks.shard_task import Sized
from benchmarks.tables import keep
from benchmarks.timing import RUNS, Work, floor_work, measure, one_thread, row
from pipeline.config import Config, load
from pipeline.core import compiled
from pipeline.core.capture.cover import Coverage, cover
from pipeline.core.codec import Codec, fit_codec
from pipeline.core.projection import Fitter, Projection, Settings, fitter, turned
from pipeline.steps.capture import Capturer, stored_columns
from pipeline.storage.arrays import ArrayWriter

OTHERS = ("kronecker", "kronecker_pca", "sjlt", "dmin", "tensorsketch")
LIMITS = {"mlp": 1.5, "cnn": 1.2, "transformer": 1.2}
"""What a capture by default is to cost at most, times the floor."""
COLUMNS = ["model", "engine", "method", "K", "ratio_min", "ratio_median", "ratio_max", "peak_bytes", "note"]


@dataclass(frozen=True)
class Choice:
    """A projection: method, K, directions a side (r) and coordinates before a second step (K1); None: auto."""

    method: str
    dimension: int
    basis: int | None
    selected: int | None

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.method} without a second step" if self.selected == self.dimension else self.method


def choices(config: Config) -> list[Choice]:
    """The product's default, then other methods at the same K, then eigenbasis without a second step; none twice."""
    section = config.projection
    basis, selected = (None if value == "auto" else value for value in (section.basis, section.selected))
    default = Choice(section.method, section.dimension, basis, selected)
    others = [replace(default, method=method, selected=None) for method in OTHERS]
    direct = [replace(default, method="eigenbasis", dimension=size, selected=size) for size in (1024, 4096)]
    return list(dict.fromkeys([default, *others, *direct]))


def works(chosen: Case, config: Config, scratch: Path) -> Iterator[Work]:
    """Lowland's captures of a case; each is set up when it is asked for."""
    shapes = {name: tuple(value.shape) for name, value in chosen.model.named_parameters()}
    probe = (chosen.batch[0][:2], chosen.batch[1][:2])
    covered = cover(chosen.model, loss, tuple(shapes), probe, config.gradients.engine)
    for number, choice in enumerate(choices(config)):
        work = fitter(choice.method, shapes, choice.dimension, 0, Settings(choice.basis, choice.selected))
        projection = fitted(chosen, covered, work, config.projection.sample_rows)
        task = Sized(chosen.key, chosen.rows)
        capturer = Capturer(task, chosen.model, covered, projection, [], config.gradients.norms)
        # The batch itself is no row that the projection was fitted on.
        projection, sample = turned(projection, capturer.capture(chosen.batch, chosen.rows).codes)
        codec = fit_codec(config.gradients.codec, sample)
        store = Store(chosen, replace(capturer, projection=projection), codec, scratch / f"{chosen.key}-{number}")
        note = f"default of the product, {codec.encoding} on disk" if number == 0 else f"{codec.encoding} on disk"
        yield Work(choice.name, projection.dimension, store.write, note)


def fitted(chosen: Case, covered: Coverage, work: Fitter, rows: int) -> Projection:
    """The projection, where it is one that is fitted, on rows of noise as those of the batch."""
    while not work.done:
        for seed in range(-(-rows // chosen.rows)):
            with work.batch(chosen.rows) as sink:
                covered.engine.capture(shuffled(chosen, seed), sink)
        work.end_pass()
    return work.projection()


def shuffled(chosen: Case, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Other rows: the batch with its inputs mixed up."""
    inputs, labels = chosen.batch
    order = torch.randperm(inputs.numel(), generator=torch.Generator().manual_seed(seed))
    return inputs.flatten()[order].view_as(inputs), labels


class Store:
    """Captures a batch again and again into a new store on disk."""

    def __init__(self, chosen: Case, capturer: Capturer, codec: Codec, directory: Path) -> None:
        self._case, self._capturer, self._codec = chosen, capturer, codec
        self._directories = (directory / str(number) for number in count())

    def write(self, batches: int) -> None:
        """Write a store of `batches` times B rows."""
        with ArrayWriter(next(self._directories)) as writer:
            for _ in range(batches):
                captured = self._capturer.capture(self._case.batch, self._case.rows)
                for name, column in stored_columns(self._codec, captured).items():
                    writer.append(name, column, total=batches * self._case.rows)


def own_rows(key: str, config: Config) -> Iterator[dict[str, Any]]:
    """The floor and Lowland on a case."""
    chosen, reference = case(key), case(key)
    yield row(chosen, "floor", floor_work(chosen), measure(chosen, reference, floor_work(chosen)))
    with tempfile.TemporaryDirectory() as scratch:
        for work in works(chosen, config, Path(scratch)):
            yield row(chosen, "lowland", work, measure(chosen, reference, work))


def all_rows(config: Config, python: Path) -> Iterator[dict[str, Any]]:
    """Every case: the floor, Lowland, and the peers by their interpreter."""
    for key in CASES:
        yield from own_rows(key, config)
        for name in NAMES:
            if python.exists():
                yield from rows_of(str(python), name, key, config.projection.dimension)
            else:
                yield unmeasured(key, name, "-", "not measured: no environment of the peers; `make bench` makes it")


def main() -> None:
    """Measure Lowland and the peers on all cases."""
    one_thread()
    compiled.load()  # made once after the product is set up, which takes seconds
    rows = []
    with threadpool_limits(1):  # numpy's too: it encodes
        for line in all_rows(load(), PEERS):
            rows.append({name: line[name] for name in COLUMNS})
            say(line)
    misses = missed(rows)
    keep("capture", "make bench", rows, by="model", threads=1, runs=RUNS, missed=misses,
         unit="ratio to forward + backward of the same process; bytes beside those resident before")  # fmt: skip
    print("\n".join(f"missed: {line}" for line in misses))


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """Which limits the product's default exceeds, and which peers are faster; the first row of it is the default."""
    found = []
    for key, limit in LIMITS.items():
        own = [row for row in rows if row["model"] == case(key).name and row["ratio_median"] is not None]
        ours = next(row for row in own if row["engine"] == "lowland")
        if ours["ratio_median"] > limit:
            found.append(f"{ours['model']}: {ours['ratio_median']:.2f} x the floor, expected {limit} at most")
        for other in own:
            if other["engine"] not in ("floor", "lowland") and other["ratio_median"] < ours["ratio_median"]:
                peer, note = f"{other['engine']} {other['method']}", f" ({other['note']})" if other["note"] else ""
                found.append(f"{ours['model']}: {peer} takes {other['ratio_median']:.2f}{note}")
    return found


def say(line: dict[str, Any]) -> None:
    """A line of progress."""
    median = line["ratio_median"]
    figure = line["note"] if median is None else f"{median:.2f} x the floor"
    print(f"{line['model']}: {line['engine']} {line['method']} {line['K']}: {figure}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
