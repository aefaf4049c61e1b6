"""Replay: the joint training's last epochs again without a row, or without the worst tenth: the truth of influence.

Batches, latents and rates are those that were recorded; a row that is left out has weight 0 and the other rows of its
batch keep theirs. Where a tenth is left out, the others count for as much more. Estimates are compared with what the
metric on the validation rows loses without a row; what is gained without the worst tenth is measured on the query rows,
over random tenths. Letters: J replays, n rows that are left out, N train rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.core.agreement import kendall, least_in_common
from pipeline.core.unrolled import replayed
from pipeline.methods import METHODS
from pipeline.steps.job import Job
from pipeline.steps.recorded import EXACT, Recorded, open_recorded
from pipeline.steps.tables import write_evaluation
from pipeline.steps.tasks import derive, use_threads
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.storage.tables import read_table

Array = np.ndarray[Any, Any]

AT_ONCE = 25
"""Replays side by side."""
JUDGED_AT_ONCE = 5
"""And their metrics, which may look at all pairs of rows and samples."""
TAIL = 0.1
"""Share of the rows that count as the most harmful, or the most helpful."""


def run(job: Job) -> None:
    """Write `evaluation/replay.parquet`: a row a horizon and a score."""
    use_threads(job.config)
    section, recorded = job.config.gan, open_recorded(job)
    scores = read_manifest(job.layout.scores)
    horizons = [each for each in section.horizons if each <= recorded.epochs]
    columns = {name: METHODS[name].suspicious * -_column(job, name) for name in scores.identity["estimators"]}
    known = np.flatnonzero(np.all([np.isfinite(values) for values in columns.values()], axis=0))
    if "gan_itd" in columns:
        columns["gan_itd"] = open_arrays(job.layout.solved("gan_itd"), "solved")[1].read("horizons")
    drawn = np.random.default_rng(derive(job.config.seed, "replay"))
    rows = np.sort(drawn.permutation(known)[: section.replayed_rows])
    count = round(TAIL * len(known))
    random = [np.sort(drawn.permutation(known)[:count]) for _ in range(section.replayed_draws)]
    table: list[dict[str, Any]] = []
    for horizon in horizons:
        judge = _Judge(job, recorded, horizon)
        now = {name: values[horizon - 1] if values.ndim == 2 else values for name, values in columns.items()}
        table += _compared(judge, now, rows, random, known)
    identity = {"recorded": recorded.manifest.digest, "scores": scores.digest}
    write_evaluation(job, "replay", table, identity, NOTE)


NOTE = (
    "kendall, harmful, helpful: agreement with what the validation metric loses without a row over the last epochs, "
    f"shares by chance {TAIL / (2 - TAIL):.3f}; gain: of the query metric without the worst tenth, over random tenths"
)


def _column(job: Job, name: str) -> Array:
    return np.asarray(read_table(job.layout.scores, [name])[name], float)


class _Judge:
    """Replays of the last `horizon` epochs."""

    def __init__(self, job: Job, recorded: Recorded, horizon: int) -> None:
        self.job, self.recorded, self.horizon, self.first = job, recorded, horizon, recorded.first(horizon)
        self.metric = {split: recorded.task.judge(recorded.model, split) for split in ("validation", "query")}

    def without(self, sets: list[Array], split: str, share_out: bool) -> Array:
        """The metric on a split after replays without some rows each, [J]."""
        total = len(self.recorded.inputs)
        progress = self.job.progress(f"replaying {self.horizon} epochs", len(sets), "times")
        found = []
        for start in range(0, len(sets), AT_ONCE):
            part = sets[start : start + AT_ONCE]
            counts = torch.ones(len(part), total, dtype=EXACT)
            for i, left_out in enumerate(part):
                counts[i] *= total / (total - len(left_out)) if share_out else 1.0
                counts[i, torch.from_numpy(left_out)] = 0
            found.append(self._ends(counts, split))
            progress.add(len(part))
        return np.concatenate(found)

    def _ends(self, counts: torch.Tensor, split: str) -> Array:
        recorded = self.recorded
        steps = (recorded.step(t) for t in range(self.first, len(recorded.epoch)))
        ends = replayed(recorded.game, recorded.rules, recorded.state(self.first), steps, counts)
        metrics: Array = torch.func.vmap(self.metric[split], chunk_size=JUDGED_AT_ONCE)(ends["weights"]).numpy()
        return metrics


def _compared(judge: _Judge, columns: dict[str, Array], rows: Array, random: list[Array],
              known: Array) -> list[dict[str, Any]]:  # fmt: skip
    metric = judge.without([np.zeros(0, np.int64), *(np.array([row]) for row in rows)], "validation", False)
    lost, count = metric[0] - metric[1:], len(random[0])
    worst = [known[np.argsort(values[known], kind="stable")[:count]] for values in columns.values()]
    removed = judge.without([*random, *worst], "query", True)
    by_chance, gained = removed[: len(random)], removed[len(random) :]
    tail = max(1, round(TAIL * len(rows)))
    return [
        {
            "epochs": judge.horizon,
            "method": METHODS[name].title,
            "checkpoint": METHODS[name].at[0],
            "control": METHODS[name].control,
            "kendall": kendall(values[rows], lost),
            "harmful": least_in_common(values[rows], lost, tail),
            "helpful": least_in_common(-values[rows], -lost, tail),
            "gain": float(gain - by_chance.mean()),
            "spread": float(by_chance.std(ddof=1)),
            "rows": len(rows),
        }
        for (name, values), gain in zip(columns.items(), gained, strict=True)
    ]  # fmt: skip
