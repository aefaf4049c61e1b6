"""What diffusion tasks have in common: images as rows, and the error of the foreseen noise at n times as their loss.

A row is a dict, n the times of the grid, C x S x S an image from -1 to 1:

    clean   [n, C, S, S]  the image, once a time
    noise   [n, C, S, S]  the noise that it meets at each
    times   [n]           0 to T - 1
    seen    [1, S, S]     1 where the loss looks, 0 elsewhere
    label   []            its class

    x_t = sqrt(a_t) clean + sqrt(1 - a_t) noise,   loss = sum_t mean over what is seen of (model(x_t, t) - target)^2

with the target that the model was trained on: the noise, the image or the velocity sqrt(a_t) noise - sqrt(1 - a_t)
clean. Times are the *parts* of the loss. The noise is drawn once: the same for all rows and times by default, as in
DMin (Lin, Lao, Zhao, arXiv 2412.08637), since rows that met other noise hardly correlate; or a row's own, from its
content. So nothing depends on order or batches.

`measure: square` puts |model(x_t, t)|^2 in place of the error: the output function of D-TRAK (Zheng, Pang, Du, Jiang,
Lin, ICLR 2024, arXiv 2311.00500), to which `influence` under a Fisher curvature then amounts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.errors import DataError
from pipeline.tasks.base import Batch, Row, Shown, Task
from pipeline.tasks.digest import digest
from pipeline.tasks.images import read_image
from pipeline.tasks.noise import stream
from pipeline.tasks.options import class_index, one_of, whole

TIMES = 1000
"""T of the tasks whose model is our own."""


@dataclass(frozen=True)
class Pictures:
    """Images of a split, with their classes; of generated ones, how they came about.

    Attributes:
        images: [N, C, S, S], -1 to 1.
        labels: [N] int64.
        journey: [N, n, C, S, S], the image that was foreseen at each time of the grid; None: the image itself.
    """

    images: Tensor
    labels: Tensor
    journey: Tensor | None = None


@dataclass(frozen=True)
class Schedule:
    """The diffusion process: a_t at each time, and what the model foresees.

    Attributes:
        kept: a_t, the share of the image's variance that is left at time t, [T].
        target: epsilon, sample or v_prediction.
    """

    kept: Tensor
    target: str = "epsilon"

    def at(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(a_t) and sqrt(1 - a_t) of times [B], [B, 1, 1, 1] each."""
        kept = self.kept.to(times.device)[times][:, None, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def noisy(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """x_t, [B, C, S, S]."""
        image, other = self.at(times)
        return image * clean + other * noise

    def wanted(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """What the model should foresee, [B, C, S, S]."""
        if self.target == "epsilon":
            return noise
        image, other = self.at(times)
        return clean if self.target == "sample" else image * noise - other * clean

    def apart(self, noisy: Tensor, foreseen: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
        """Image and noise of x_t, after what the model foresees."""
        image, other = self.at(times)
        if self.target == "epsilon":
            return (noisy - other * foreseen) / image, foreseen
        clean = foreseen if self.target == "sample" else image * noisy - other * foreseen
        return clean, (noisy - image * clean) / other


def linear_schedule() -> Schedule:
    """Variances from 1e-4 to .02 over T = 1000 times (Ho, Jain, Abbeel 2020)."""
    return Schedule(torch.cumprod(1 - torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64), 0).float())


def grid_of(kind: str, count: int, times: int) -> list[int]:
    """n times of T, ascending.

    even: in the middles of n equal spans. dmin: T - 1 - int(T (k / n)^3), k = 0 to n - 1, dense where noise is high.

    >>> grid_of("even", 5, 1000), grid_of("dmin", 5, 1000)
    ([100, 300, 500, 700, 900], [487, 783, 935, 991, 999])
    """
    if kind == "even":
        return [int((k + 0.5) * times / count) for k in range(count)]
    return sorted(times - 1 - times * k**3 // count**3 for k in range(count))  # in floats 216 can come to 215


@dataclass(frozen=True)
class Grid:
    """Options of the loss that is attributed; see `Diffusion`."""

    parts: int = 5
    kind: str = "even"
    noise: str = "shared"
    measure: str = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        """Check them."""
        whole("parts", self.parts)
        one_of("grid", self.kind, ("even", "dmin"))
        one_of("noise", self.noise, ("shared", "row"))
        one_of("measure", self.measure, ("error", "square"))
        whole("seed", self.seed, 0)


class DiffusionRows(Dataset[Row]):
    """Pictures as rows."""

    def __init__(self, pictures: Pictures, times: Tensor, grid: Grid) -> None:
        """Pictures, and the times [n] at which they are looked at."""
        self._pictures, self._times, self._grid = pictures, times, grid

    def __len__(self) -> int:
        """How many."""
        return len(self._pictures.labels)

    def __getitem__(self, index: int) -> Row:
        """The row `index`."""
        pictures = self._pictures
        image, journey = pictures.images[index], pictures.journey
        row = row_of(image, pictures.labels[index], self._times, self._grid)
        return row if journey is None else {**row, "clean": journey[index]}


def row_of(image: Tensor, label: Tensor, times: Tensor, grid: Grid) -> Row:
    """An image [C, S, S] with its noise."""
    count = len(times)
    if grid.noise == "shared":
        drawn = stream(grid.seed, "diffusion noise").standard_normal((1, *image.shape))
    else:
        name = digest((image, label)).hex()
        drawn = stream(grid.seed, f"diffusion noise of {name}").standard_normal((count, *image.shape))
    return {
        "clean": image.expand(count, *image.shape),
        "noise": torch.from_numpy(drawn.astype(np.float32)).expand(count, *image.shape),
        "times": times,
        "seen": torch.ones(1, *image.shape[1:]),
        "label": label,
    }


class Diffusion(Task):
    """Base of the diffusion tasks; a subclass gives `model`, `foreseen`, and its pictures.

    Options that all have:
        parts: n, times of the grid, each a part of the loss.
        grid: even, or dmin, the paper's.
        noise: shared by all rows and times, or a row's own.
        measure: error; or square, for D-TRAK.
        seed: of noise and splits.
    """

    def __init__(self, splits: dict[str, Pictures], names: Sequence[str], schedule: Schedule, grid: Grid) -> None:
        """Pictures by split, names of their classes, the process and the loss."""
        self._splits, self._names, self.schedule, self._grid = splits, list(names), schedule, grid
        self.times = torch.tensor(grid_of(grid.kind, grid.parts, len(schedule.kept)))
        self.loss_parts = grid.parts

    told = True
    """Whether the model is told the class."""

    @abstractmethod
    def foreseen(self, model: nn.Module, noisy: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """What the model foresees in x_t, [B, C, S, S]."""

    def train_rows(self) -> DiffusionRows:
        """Pictures that the model learns."""
        return self._rows("train")

    def validation_rows(self) -> DiffusionRows:
        """Pictures that it does not learn."""
        return self._rows("validation")

    def query_rows(self) -> DiffusionRows:
        """Pictures that are to be explained: held out, or generated."""
        return self._rows("query")

    def _rows(self, split: str) -> DiffusionRows:
        return DiffusionRows(self._splits[split], self.times, self._grid)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum over the times in the batch, [B], of mean squared errors of a pixel, the image being from -1 to 1."""
        parts = [self._loss_at(model, batch, i) for i in range(batch["times"].shape[1])]
        return torch.stack(parts).sum(0)

    def _loss_at(self, model: nn.Module, batch: Batch, i: int) -> Tensor:
        clean, noise, times = (batch[name][:, i] for name in ("clean", "noise", "times"))
        found = self.foreseen(model, self.schedule.noisy(clean, noise, times), times, batch["label"])
        wanted = 0 if self._grid.measure == "square" else self.schedule.wanted(clean, noise, times)
        errors = (found - wanted).square().mean(1, keepdim=True) * batch["seen"]
        return errors.sum((1, 2, 3)) / batch["seen"].sum((1, 2, 3))

    def loss_part(self, batch: Batch, index: int) -> Batch:
        """The batch at one time alone."""
        return {**batch, **{name: batch[name][:, index : index + 1] for name in ("clean", "noise", "times")}}

    def focus(self, row: Row, part: str) -> Row:
        """A region, "rows,columns" as "2:10,3:12": the loss looks at these pixels alone.

        Raises:
            DataError: no region of the image.
        """
        seen = torch.zeros_like(row["seen"])
        seen[:, *region(part, seen.shape[-1])] = 1
        return {**row, "seen": seen}

    def show(self, row: Row) -> Shown:
        """The picture."""
        image = row["clean"][0]
        pixels = (127.5 * (image.clamp(-1, 1) + 1)).round().to(torch.uint8).permute(1, 2, 0)
        return Shown(image=pixels.squeeze(-1).numpy())

    def read(self, path: Path, label: str | None) -> Row:
        """A picture, or .npy or .json with its pixels, and its class.

        Raises:
            DataError: no such picture or class, or no class for a model that is told it.
        """
        if label is None and self.told:
            raise DataError(f"expected the class of {path.name}, which the model is told, got none; give --label")
        shape = self._splits["train"].images.shape
        image = 2 * read_image(path, shape[-1], shape[1]) - 1
        number = class_index(label, self._names) or 0
        return row_of(image, torch.tensor(number), self.times, self._grid)


def region(text: str, side: int) -> tuple[slice, slice]:
    """Rows and columns of "2:10,3:12".

    >>> region("2:10,3:12", 16)
    (slice(2, 10, None), slice(3, 12, None))

    Raises:
        DataError: not such a text, or nothing of an image of this side.
    """
    ends = [part.split(":") for part in text.split(",")]
    if len(ends) == 2 and all(len(pair) == 2 and all(end.strip().isdecimal() for end in pair) for pair in ends):
        rows, columns = (slice(int(first), int(last)) for first, last in ends)
        if all(part.start < part.stop <= side for part in (rows, columns)):
            return rows, columns
    raise DataError(f"expected a region rows,columns within {side} x {side} pixels, as 2:10,3:12, got {text!r}")


@torch.no_grad()
def generated(task: Diffusion, model: nn.Module, labels: Tensor, seed: int, steps: int = 25) -> Pictures:
    """Images of some classes by DDIM (Song, Meng, Ermon, ICLR 2021) with eta 0; image i depends on seed and i alone.

    Args:
        task: of the model.
        model: trained.
        labels: [N].
        seed: of the noise that they start from.
        steps: of the sampler, spread evenly over the times.
    """
    shape, last = task._splits["train"].images.shape[1:], len(task.schedule.kept) - 1
    drawn = [stream(seed, f"generated {i}").standard_normal(shape) for i in range(len(labels))]
    x = torch.from_numpy(np.stack(drawn).astype(np.float32))
    visited = torch.linspace(last, 0, steps).round().long()
    nearest = {int((visited - time).abs().argmin()): i for i, time in enumerate(task.times)}
    journey = x[:, None].repeat(1, len(task.times), 1, 1, 1)
    for k, time in enumerate(visited):
        now = time.expand(len(labels))
        clean, noise = task.schedule.apart(x, task.foreseen(model, x, now, labels), now)
        clean = clean.clamp(-1, 1)
        if k in nearest:
            journey[:, nearest[k]] = clean
        x = clean if k + 1 == steps else task.schedule.noisy(clean, noise, visited[k + 1].expand(len(labels)))
    return Pictures(x, labels, journey)
