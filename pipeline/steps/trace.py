"""Trace: influence of train rows on a metric of the generator, through the joint training's recorded steps, or at rest.

gan_itd goes backward through the steps (`core/unrolled`), gan_aid sums a Neumann series at their end
(`core/fixed_point`). The metric is the task's on the validation rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.fixed_point import settled
from pipeline.core.game import Step, preconditioner
from pipeline.core.unrolled import traced
from pipeline.steps.job import Job
from pipeline.steps.recorded import EXACT, Recorded, open_recorded
from pipeline.steps.stores import retired_of
from pipeline.steps.tasks import use_threads
from pipeline.storage.arrays import write_arrays

Array = np.ndarray[Any, Any]


def run(job: Job, method: str) -> None:
    """Write `solved/<method>.zarr`: train [N], NaN for rows that no recorded step used or that are retired.

    gan_itd also leaves `horizons` [E, N]: what the last 1, 2, ... E epochs alone say.
    """
    use_threads(job.config)
    plan, recorded = job.plan(), open_recorded(job)
    counted = recorded.learnt()
    counted[list(plan.retired)] = False
    series, notes = (_backward if method == "gan_itd" else _at_rest)(job, recorded)
    series = np.where(counted, series, np.nan)
    section = job.config.gan.plain()
    identity = {
        "method": method,
        "recorded": recorded.manifest.digest,
        "gan": {key: section[key] for key in _READS[method]},
        "content": plan.splits["validation"].content,
        "retired": retired_of(plan, "train"),
    }
    with job.writing(job.layout.solved(method), "solved", identity) as (path, record):
        write_arrays(path, {"train": series[-1], "horizons": series})
        record.update(notes)


_READS: dict[str, tuple[str, ...]] = {"gan_itd": (), "gan_aid": ("depth", "damping", "scale")}


def _backward(job: Job, recorded: Recorded) -> tuple[Array, dict[str, Any]]:
    """[E, N]."""
    steps = len(recorded.epoch)
    progress = job.progress("tracing back", steps, "steps")
    total, series = torch.zeros(len(recorded.inputs), dtype=EXACT), []
    pulled = traced(recorded.game, recorded.rules, recorded.backward(), recorded.slope("validation"))
    for t, (step, found) in zip(reversed(range(steps)), pulled, strict=True):
        total.index_add_(0, step.positions, found)
        if t == 0 or recorded.epoch[t - 1] != recorded.epoch[t]:
            series.append(total.numpy().copy())
        progress.add()
    return np.stack(series), {"steps": steps}


def _at_rest(job: Job, recorded: Recorded) -> tuple[Array, dict[str, Any]]:
    """[1, N]."""
    section, end = job.config.gan, recorded.end
    depth = len(recorded.epoch) if section.depth == "auto" else section.depth
    last = [recorded.step(t) for t in range(recorded.first(1), len(recorded.epoch))]
    rows = torch.from_numpy(np.flatnonzero(recorded.learnt()))
    share = torch.full((len(rows),), 1 / len(rows), dtype=EXACT)
    latents = torch.cat([step.latents for step in last])
    whole = Step(last[-1].number, rows, share, recorded.inputs[rows], latents, last[-1].rates)
    progress = job.progress("summing at rest", depth, "products")
    found, change = settled(
        recorded.game, end["weights"], whole, recorded.slope("validation"), _sizes(recorded, last[-1], section.scale),
        depth, section.damping, progress.add,
    )  # fmt: skip
    job.say(f"after {depth} products the series still changes by {change:.2g} of itself")
    scores = np.zeros(len(recorded.inputs))
    scores[rows.numpy()] = found.numpy()
    return scores[None], {"depth": depth, "change": change}


def _sizes(recorded: Recorded, last: Step, scale: Any) -> dict[str, Tensor]:
    """S: a number for all, or how far the last step moved each weight for its gradient."""
    weights, names = recorded.end["weights"], recorded.game.discriminator
    if scale != "auto":
        return {name: torch.tensor(scale, dtype=EXACT) for name in weights}
    rates = {name: last.rates[0 if name in names else 1] for name in weights}
    if recorded.rules.descent == "sgd":
        return {name: torch.tensor(rate, dtype=EXACT) for name, rate in rates.items()}
    second = recorded.end["second"]
    return {name: rate * preconditioner(recorded.rules, second[name], last.number) for name, rate in rates.items()}
