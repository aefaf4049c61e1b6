"""What a job of each stage may take: memory and time that the workflow reserves where a scheduler asks for them.

Memory is the budget of captures and reductions, `compute.memory_mb`; beside it the interpreter with its libraries and
the two processes of Snakemake around a job on a cluster (270 MB); the task's rows where a stage reads them; and what a
stage holds whole however small the budget is.

Time is a limit and no forecast: a shard is planned to take a minute, a slow node may take ten times as long, and a job
that is stopped at its limit is run again with more. No result depends on either.
"""

from __future__ import annotations

from pipeline.config import Config
from pipeline.methods import SOLVED_PAIRS
from pipeline.shards import Plan

MB = 10**6
PROCESSES_MB = 1000
"""Interpreter and libraries (600 MB at most in a demonstration's jobs), and Snakemake."""
ROWS_MB = 1000
"""A task's rows and its model, where the stage runs the task."""
TASK_STAGES = (
    "train", "flatten", "folds", "posterior", "trajectory", "twin", "twin_flat", "member", "ensemble", "losses",
    "solve", "record", "trace", "projection", "gradients", "candidates", "evaluate", "retrieval", "report",
    "retrain", "lds", "memorisation", "replay",
)  # fmt: skip
METHODS_AT_ONCE = 16
"""Methods whose scores of all pairs are held together."""
QUANTISED_ROWS = 65_536
"""Rows that train an index's quantisers at most."""

LIMIT_MIN = {
    "train": 240,
    "flatten": 120,
    "folds": 120,
    "posterior": 120,
    "trajectory": 240,
    "twin": 240,
    "twin_flat": 120,
    "member": 240,
    "ensemble": 240,
    "solve": 240,
    "record": 240,
    "trace": 240,
    "replay": 240,
    "projection": 60,
    "gradients": 30,
    "candidates": 60,
    "index": 120,
    "retrain": 240,
}
OTHER_LIMIT_MIN = 30


def memory_mb(stage: str, config: Config, plan: Plan) -> int:
    """MB of a job of a stage."""
    task = ROWS_MB if stage in TASK_STAGES else 0
    return config.compute.memory_mb + PROCESSES_MB + task + -(-whole_bytes(stage, config, plan) // MB)


def whole_bytes(stage: str, config: Config, plan: Plan) -> int:
    """What a stage holds whole: matrices [K, K] in float64, solved vectors, an index, a column a row."""
    train, validation, query = (plan.splits[split].rows for split in ("train", "validation", "query"))
    dimension = code_numbers(config, plan)
    code, matrix = 4 * dimension, 8 * dimension**2
    return {
        "suspects": 64 * train,
        "curvature": 6 * matrix,
        "vectors": 4 * matrix + 4 * code * (validation + query),
        "index": code * (train + 2 * min(train, QUANTISED_ROWS)) * 5 // 4,
        "posterior": 160 * len(plan.classes) * train
        + 64 * min(config.posterior.landmarks, train) * (min(config.posterior.landmarks, train) + validation),
        "solve": 16 * query * train if any(name in SOLVED_PAIRS for name in config.scores.estimators) else 0,
        "scores": 4 * matrix * max(1, len(config.scores.estimators)) + 400 * train,
        "query": code * train * 5 // 4 + 64 * train,
        "evaluate": 400 * train + (4 * matrix if config.evaluate.relabel else 0),
        "stability": 4 * matrix + 8 * code * query + 400 * train,
        "retrieval": 8 * matrix + METHODS_AT_ONCE * 8 * query * train,
        "report": 400 * train,
    }.get(stage, 0)


def code_numbers(config: Config, plan: Plan) -> int:
    """Numbers of a row's code: K, or K a part where the parts of a loss are kept apart."""
    return config.projection.dimension * (plan.parts if config.gradients.parts == "separate" else 1)


def limit_minutes(stage: str) -> int:
    """Minutes after which a scheduler may stop a job of a stage."""
    return LIMIT_MIN.get(stage, OTHER_LIMIT_MIN)
