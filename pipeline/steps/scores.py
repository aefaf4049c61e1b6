"""Scores: one row a train sample: is it harmful, and what should its label be?

A column an estimator of `scores.estimators`, S and the simple controls: unsigned ones are larger for more suspicious
rows, signed ones positive where the row helped the validation set; `pipeline.methods` says which is which.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config import CURVATURE_SPLIT
from pipeline.core.influence import likeliest_other
from pipeline.errors import ConfigError
from pipeline.methods import METHODS, POSTERIOR, columns_of
from pipeline.steps.codes import FINITE, NOT_FINITE
from pipeline.steps.estimating import RunStores, fitted, score_rows
from pipeline.steps.former import FOLLOWING, Former
from pipeline.steps.job import Job
from pipeline.steps.relabelling import relabelled
from pipeline.steps.stores import open_candidates, retired_of
from pipeline.storage.artefact import read_manifest
from pipeline.storage.opened import open_arrays
from pipeline.storage.tables import write_table

Array = np.ndarray[Any, Any]

AT = ("flat", "trained")
"""Checkpoints that rows are scored at."""
RETIRED = 2
"""Flag of a row that takes part in no answer."""

NOTES = {
    "wrong": f"unsigned: {POSTERIOR.note}",
    "otherwise": "the likeliest label but the given one, by the posterior: right if that is wrong; -1 where unknown",
    "suggested": "argmin over labels c of S(x, c); -1 where unknown",
    "margin": "S(given label) - S(suggested label)",
    "predicted": "argmin over labels c of the loss at flat: the prediction there; -1 where unknown",
    "codes": "hash of the codes at flat",
    "label_codes": "hash of the codes under all labels",
    "flag": "1: loss or gradient not finite, 2: retired; no score",
}


def run(job: Job) -> None:
    """Write `scores/scores.parquet`."""
    plan, stores = job.plan(), RunStores(job.layout, job.plan(), job.workers())
    flat, trained = (stores.sets("train", [name])[name] for name in AT)
    _, hashes = open_arrays(job.layout.hashes, "rows")
    labels = hashes.read("train_label")
    finite, retired = flat.finite() & trained.finite(), np.isin(np.arange(flat.rows), plan.retired)
    counted = finite & ~retired
    names, former, codes = columns_of(job.config.scores.estimators), Former.of(job), flat.column("code_hash")
    known, said = former.of_rows("codes", codes, [name for name in names if name in FOLLOWING])
    scores, made_from = _scores(job, stores, names, known, said)
    beside = {"solved": stores.digests_of_solved(scores),
              "ensemble": read_manifest(job.layout.losses).digest if "gex" in scores else None}  # fmt: skip
    columns: dict[str, Any] = {
        "row": np.arange(flat.rows),
        "content": hexadecimal(hashes.read("train")),
        "given": labels,
        **scores,
        "codes": codes,
        "flag": np.where(retired, RETIRED, np.where(finite, FINITE, NOT_FINITE)).astype(np.int8),
    }
    computed = 0
    if plan.labelled:
        posterior, arrays = open_arrays(job.layout.posterior, "posterior")
        columns["wrong"] = arrays.read("surprise")
        columns["otherwise"] = likeliest_other(arrays.read("true"), labels)
        found = relabelled(job, labels, former)
        columns.update(found.columns)
        computed = found.computed
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and values.ndim == 1:
            columns[name] = np.where(counted, values, np.nan)
    identity = {
        "gradients": made_from,
        "estimators": list(scores),
        **beside,
        "curvature": [read_manifest(job.layout.curvature(name, CURVATURE_SPLIT[name])).digest for name in AT],
        "candidates": open_candidates(job.layout, plan, "flat", "train").digests() if plan.labelled else [],
        "posterior": posterior.digest if plan.labelled else None,
        "rows": read_manifest(job.layout.hashes).digest,
        "retired": retired_of(plan, "train"),
    }
    with job.writing(job.layout.scores, "scores", identity) as (path, record):
        write_table(path, columns, {**{name: note_of(name) for name in scores}, **NOTES})
        record["formed"] = int((counted & ~known).sum())
        record["relabelled"] = computed
        record["flagged"] = [int(i) for i in np.nonzero(~finite & ~retired)[0]]


def hexadecimal(hashes: Array) -> list[str]:
    """Each row of bytes [N, 16] as a text."""
    width, text = 2 * hashes.shape[1], hashes.tobytes().hex()
    return [text[start : start + width] for start in range(0, len(text), width)]


def note_of(name: str) -> str:
    """What a column says: its sign and formula."""
    method = METHODS[name]
    kind = "control" if method.control else f"{method.rows}{', positive: helped' if method.rows == 'signed' else ''}"
    return f"{kind}: {method.note}"


def _scores(job: Job, stores: RunStores, names: list[str], known: Array,
            said: dict[str, Array]) -> tuple[dict[str, Array], dict[str, list[str]]]:  # fmt: skip
    """The columns that are wanted, [N] each, but for what is known, and the gradients that they come from."""
    estimators = {}
    for name in names:
        method = METHODS[name]
        if "candidates" in method.reads and not stores.plan.labelled:
            raise ConfigError(
                f"expected a task with labels for {name}, got one without; take it out of scores.estimators"
            )
        at = job.config.checkpoints.expanded(method.at[:1])
        job.say(f"fitting {method.title}")
        estimators[name] = fitted(stores, name, at), at
    blocks = sum(len(shard.parts()) for shard in stores.sets("train", ["flat"])["flat"].shards)
    progress = job.progress("scoring", blocks, "blocks")
    scores = score_rows(stores, estimators, progress.add, known, said)
    return scores, stores.digests()
