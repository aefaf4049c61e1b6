"""Retraining: test accuracy of models whose suspects were removed or relabelled, beside random rows and the oracle.

Where the task is no classification and has a metric of its own, that stands in place of the accuracy.

The query rows are the test set. Every figure is a mean over models of several seeds; differences to the control are
paired by seed, with their standard error.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.methods import RANKED
from pipeline.retrainings import PLAIN
from pipeline.schema_estimators import CheckpointsSection
from pipeline.steps.job import Job
from pipeline.steps.retrained import Retrained, open_retrained
from pipeline.steps.tables import write_evaluation
from pipeline.steps.titles import named
from pipeline.storage.layout import Layout

Array = np.ndarray[Any, Any]

NAMES = {"random": "random rows", "oracle": "truly wrong rows (oracle)", "memorised": "most memorised rows"}
CONTROLS = {"removed": "random.removed", "relabelled": PLAIN, "pruned": "random.pruned"}
"""What an action is compared with: as many random rows removed; nothing done, for relabelling."""


def run(job: Job, set_name: str) -> None:
    """Write `evaluation/retraining-<set>.parquet`."""
    retrained = open_retrained(job.layout, job.plan(), job.config, set_name)
    rows = table(retrained, job.layout, job.config.checkpoints)
    note = (
        "accuracy (or the task's metric) on the query rows after retraining; gains are paired by seed, against the "
        "action named"
    )
    write_evaluation(job, f"retraining-{set_name}", rows, {"members": retrained.digests()}, note)


def table(retrained: Retrained, layout: Layout, checkpoints: CheckpointsSection) -> list[dict[str, Any]]:
    """A row an action: how many rows it removed or relabelled, accuracy or metric, spread, gain over its control."""
    figure, judged = _judged(retrained)
    kept = retrained.read("kept").sum(1)
    by_action = {action: judged[positions] for action, positions in retrained.actions().items()}
    rows = []
    for action, positions in retrained.actions().items():
        name, _, act = action.rpartition(".")
        values, relabelled = by_action[action], len(retrained.manifests[positions[0]].identity["labels"])
        rows.append({
            "rows": NAMES.get(name) or (named(layout, RANKED[name].title) if name else "all"),
            "checkpoint": checkpoints.name_of(RANKED[name].at) if name in RANKED else "none",
            "action": act if name else "nothing",
            "control": name in ("", "random", "oracle") or (name in RANKED and RANKED[name].control),
            "removed": int(kept.max() - kept[positions[0]]),
            "relabelled": relabelled,
            figure: float(values.mean()),
            "spread": float(values.std(ddof=1)),
            **_gain("whole", values, by_action[PLAIN]),
            **_gain("control", values, by_action[CONTROLS.get(act, PLAIN)]),
            "seeds": len(values),
        })  # fmt: skip
    return rows


def _judged(retrained: Retrained) -> tuple[str, Array]:
    """What retrained models are judged by on the query rows, and its value for each, [t]: larger is better."""
    if "query_metric" in retrained.arrays[0]:
        return "metric", retrained.read("query_metric")[:, 0]
    return "accuracy", retrained.correct("query").mean(1)


def _gain(over: str, values: Array, reference: Array) -> dict[str, float]:
    """Mean paired difference and its standard error."""
    difference = values - reference
    return {
        f"over_{over}": float(difference.mean()),
        f"over_{over}_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }
