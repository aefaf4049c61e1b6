"""Stability: are the best rows the same under another damping? From the stores of a run; nothing is captured again.

lambda alone changes: of queries the k best rows, exactly, under u = (C + lambda)^-1 g; of suspects the most suspicious
share of the train rows by S, W and self-influence. Overlap is the share of rows in common, beside what chance would
give. Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.core.agreement import jaccard, overlaps, spearman
from pipeline.core.curvature import absolute_damping
from pipeline.core.estimators.fvm import MeanOfPairs, SetLevel
from pipeline.core.estimators.self_influence import SelfInfluence
from pipeline.core.influence import SIGNED, order
from pipeline.core.preconditioner import Preconditioner
from pipeline.errors import ConfigError
from pipeline.methods import CHECKPOINTS, CURVATURE_SPLIT, METHODS, SCORES
from pipeline.steps.estimating import RunStores, score_rows
from pipeline.steps.job import Job
from pipeline.steps.preconditioned import open_preconditioner, open_vectors
from pipeline.steps.query import DIRECTIONS
from pipeline.steps.retrieve import exact_search
from pipeline.steps.tables import write_evaluation
from pipeline.steps.titles import named
from pipeline.storage.artefact import read_manifest
from pipeline.storage.layout import Layout

Array = np.ndarray[Any, Any]

DAMPED = ("influence", "fvm")
"""Scores of pairs that a damping changes."""
FORMS = {"s": SetLevel, "w": MeanOfPairs, "self_influence": SelfInfluence}
"""Scores of rows that a damping changes, by their column."""
NOTE = "overlap: share of the best k rows in common; chance: that of random rows; error: standard error over queries"


def run(job: Job) -> None:
    """Write `evaluation/stability.parquet`."""
    stores = RunStores(job.layout, job.plan(), job.workers())
    rows = []
    for checkpoint in CHECKPOINTS:
        own, by_damping = dampings(job.layout, checkpoint, job.config.stability.dampings)
        job.say(f"comparing dampings {', '.join(f'{each:g}' for each in by_damping)} at {checkpoint}")
        rows += [
            *_queries(job, stores, checkpoint, own, by_damping),
            *_suspects(job, stores, checkpoint, own, by_damping),
        ]
    curvatures = {
        name: read_manifest(job.layout.curvature(name, split)).digest for name, split in CURVATURE_SPLIT.items()
    }
    identity = {"gradients": stores.digests(), "curvature": curvatures, "stability": job.config.stability.plain(),
                "query": job.config.query.plain(), "retired": list(job.plan().retired)}  # fmt: skip
    write_evaluation(job, "stability", rows, identity, NOTE)


def dampings(layout: Layout, checkpoint: str, others: list[float]) -> tuple[float, dict[float, Preconditioner]]:
    """The run's own damping at a checkpoint, and H^-1 under it and under each of the others.

    Raises:
        ConfigError: a curvature that takes no damping.
    """
    fitted, manifest = open_preconditioner(layout, checkpoint, CURVATURE_SPLIT[checkpoint])
    section = manifest.identity["curvature"]
    if section["kind"] == "identity":
        raise ConfigError(
            "expected a curvature.kind that is damped for --stability, got identity; compare with another run by "
            "--against"
        )
    own = float(section["damping"])
    made = {each: Preconditioner(fitted.spectrum, absolute_damping(fitted.spectrum, each)) for each in others}
    return own, {**made, own: fitted}


def _queries(job: Job, stores: RunStores, checkpoint: str, own: float,
             by_damping: Mapping[float, Preconditioner]) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row a score, direction and other damping."""
    if not stores.plan.splits["query"].rows:
        return
    vectors = open_vectors(job.layout, checkpoint, "query")
    codes = vectors.codes(np.nonzero(vectors.finite())[0])
    if not len(codes):
        return
    train = stores.sets("train", [checkpoint])[checkpoint]
    stores.preconditioner(checkpoint)  # refuses a curvature of other train rows
    total = int(train.counted().sum())
    k = min(job.config.query.k, total)
    for score in (name for name in DAMPED if checkpoint in SCORES[name]):
        for direction in DIRECTIONS if SIGNED[score] else DIRECTIONS[:1]:
            best = {
                damping: exact_search(train, score, each.solve(codes), k, direction == "bottom", job.workers()).ids
                for damping, each in by_damping.items()
            }
            for damping in (each for each in best if each != own):
                head = {
                    "answers": f"{direction} rows of queries",
                    "score": named(job.layout, METHODS[score].title),
                    "checkpoint": checkpoint,
                }
                yield {**head, "changed": _change(own, damping), **agreement(best[own], best[damping], k, total)}


def _suspects(job: Job, stores: RunStores, checkpoint: str, own: float,
              by_damping: Mapping[float, Preconditioner]) -> Iterator[dict[str, Any]]:  # fmt: skip
    """A row a score and other damping."""
    names = [name for name in FORMS if METHODS[name].at[0] == checkpoint]
    asked = {
        f"{name} {damping}": (FORMS[name](checkpoint, each), [checkpoint])
        for name in names
        for damping, each in by_damping.items()
    }
    scores = score_rows(stores, asked, lambda: None)
    for name in names:
        for damping in (each for each in by_damping if each != own):
            head = {"answers": "suspects", "score": named(job.layout, METHODS[name].title), "checkpoint": checkpoint}
            same = suspects_agree(
                scores[f"{name} {own}"], scores[f"{name} {damping}"], job.config.stability.suspects_share
            )
            yield {**head, "changed": _change(own, damping), **same}


def _change(own: float, damping: float) -> str:
    return f"damping {own:g} to {damping:g}"


def suspects_agree(first: Array, second: Array, share: float) -> dict[str, Any]:
    """Agreement of two scores of the same rows, [n] each, larger being more suspicious: NaN takes no part."""
    known = np.nonzero(np.isfinite(first) & np.isfinite(second))[0]
    k = max(1, round(share * len(known)))
    best = [known[order(each[known], known)[:k]] for each in (first, second)]
    found = agreement(best[0][None], best[1][None], k, len(known))
    return {**found, "spearman": spearman(first[known], second[known])}


def agreement(first: Any, second: Any, k: float, rows: int) -> dict[str, Any]:
    """How far lists of best rows agree, [q, k] each (or q lists), out of so many rows."""
    shares = overlaps(first, second)
    error = float(shares.std(ddof=1) / np.sqrt(len(shares))) if len(shares) > 1 else None
    return {"k": k, "overlap": float(shares.mean()), "error": error, "jaccard": float(jaccard(shares).mean()),
            "chance": k / rows, "spearman": None, "lists": len(shares)}  # fmt: skip
