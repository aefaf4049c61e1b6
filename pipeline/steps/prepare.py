"""Prepare: look at the task's rows, give each its content hash, cut them into shards, and say which splits share rows.

Runs whenever the workflow is parsed. While the stamp of the plan (task, code, sources) is the same, nothing is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.config import TaskSection
from pipeline.errors import InputError, StoreError, TaskError
from pipeline.provenance import digest_value
from pipeline.shards import Plan, cut, settled_rows
from pipeline.steps.freshness import stamp_of, stamp_of_files
from pipeline.steps.job import Job
from pipeline.steps.retire import contents
from pipeline.steps.shared import shared_rows
from pipeline.steps.tasks import checked_shown, load_task
from pipeline.steps.tombstones import applied, stamp
from pipeline.storage.arrays import write_arrays
from pipeline.storage.artefact import read_manifest, write_whole
from pipeline.storage.layout import Layout
from pipeline.tasks.base import Task
from pipeline.tasks.blame import blame, file_of
from pipeline.tasks.checks import Facts, check_task, row_set
from pipeline.tasks.cost import forward_operations

SPLITS = ("train", "validation", "query")


def run(job: Job) -> None:
    """Write rows.zarr, inputs.zarr and plan.json in `prepare/`, unless they are up to date."""
    section = job.config.task
    task = load_task(section)
    made_from = stamp_of(job.config, _sources(task), stamp(job.layout))
    if _is_current(job.layout, made_from):
        return
    facts = check_task(task)
    _check_trainable(section, facts)
    _check_show(task)
    labelled = facts.labelled and facts.classifies
    named = {split: _hashes(job, task, split, labelled) for split in SPLITS}
    hashes = {split: whole for split, (whole, _) in named.items()}
    _write_rows(job, task, facts, hashes, {split: inputs for split, (_, inputs) in named.items()})
    shard_rows = _shard_rows(job, task)
    plan = Plan(
        splits={split: cut(hashes[split], shard_rows) for split in SPLITS},
        classes=(facts.class_names or ()) if facts.classifies else (),
        labelled=labelled,
        trains=facts.trains,
        shard_rows=shard_rows,
        truth=_truth(task),
        retired=(),
        data=section.data,
        stamp=made_from,
        parts=facts.parts,
        groups=_groups(task),
    )
    plan, lost = applied(job.layout, plan, contents(job.layout))
    if lost:
        names = ", ".join(f"{each.row} ({each.content[:8]})" for each in lost[:10])
        job.say(f"retired rows that the data hold no more, or with other content, and that count again: {names}")
    write_whole(job.layout.plan, plan.save())
    sizes = ", ".join(f"{plan.splits[split].rows} {split}" for split in SPLITS)
    shards = sum(len(plan.splits[split].shards) for split in SPLITS)
    job.say(f"planned {sizes} rows in {shards} shards of up to {shard_rows}")
    for line in shared_rows(job.layout):
        job.say(line)


def _shard_rows(job: Job, task: Task) -> int:
    """Rows of a shard: as configured, else as the run began, since other shards would be captured anew."""
    configured = job.config.plan.shard_rows
    if configured != "auto":
        return configured
    try:
        return Plan.load(job.layout.plan).shard_rows
    except StoreError:
        return settled_rows(forward_operations(task))


def _truth(task: Task) -> str:
    """Digest of the true labels, so that an evaluation knows when they change; empty where there are none."""
    return "" if task.true_labels is None else digest_value([int(label) for label in task.true_labels])


def _groups(task: Task) -> str:
    """The same of the groups of train and query rows; empty where either has none."""
    found = [task.groups(split) for split in ("train", "query")]
    return "" if any(not each for each in found) else digest_value([list(each or ()) for each in found])


def _sources(task: Task) -> Any:
    """A text of the task's own, or the stamp of its files; None: the rows are looked at each time."""
    sources = task.sources()
    return sources if sources is None or isinstance(sources, str) else stamp_of_files(sources)


def _is_current(layout: Layout, stamp: dict[str, Any]) -> bool:
    """Whether the plan was made from just this."""
    try:
        current = Plan.load(layout.plan).stamp == stamp
        read_manifest(layout.hashes)
        read_manifest(layout.inputs)
    except StoreError:
        return False
    return current and stamp["sources"] is not None


def _check_trainable(section: TaskSection, facts: Facts) -> None:
    if section.checkpoint is None and not facts.trains:
        raise TaskError(
            "expected a trained model, got neither task.checkpoint in the config nor a method train(self, model) in "
            "the task; "
            "name the file of your weights, or write `train`"
        )


def _check_show(task: Task) -> None:
    """The report comes last; what would break it is found first."""
    row = row_set(task, "train").row(0)
    try:
        checked_shown(task.show(row))
    except InputError:
        raise
    except Exception as error:
        raise TaskError(
            f"expected {type(task).__name__}.show to show a row, got {blame(error, file_of(task))}"
        ) from error


def _hashes(job: Job, task: Task, split: str, labelled: bool) -> tuple[list[bytes], list[bytes]]:
    """Of each row of a split, and of each without its label: the same where the task has none."""
    rows = row_set(task, split)
    progress = job.progress(f"hashing {split} rows", len(rows))
    hashes, inputs = [], []
    for i in range(len(rows)):
        whole, without = rows.digests(i) if labelled else 2 * (rows.digest(i),)
        hashes.append(whole)
        inputs.append(without)
        progress.add()
    return hashes, inputs


def _write_rows(job: Job, task: Task, facts: Facts, hashes: dict[str, list[bytes]],
                inputs: dict[str, list[bytes]]) -> None:  # fmt: skip
    """Hashes [n, 16] of each split, with labels and without, and the given labels [N] (-1 without)."""
    labels = task.labels if facts.labelled else None
    given = np.full(facts.train, -1) if labels is None else np.asarray(labels, np.int64)
    identity = {split: cut(values, max(1, len(values))).content for split, values in hashes.items()}
    with job.writing(job.layout.hashes, "rows", identity) as (path, _):
        write_arrays(path, {**_arrays(hashes), "train_label": given})
    with job.writing(job.layout.inputs, "inputs", identity) as (path, _):
        write_arrays(path, _arrays(inputs))


def _arrays(hashes: dict[str, list[bytes]]) -> dict[str, np.ndarray[Any, Any]]:
    return {
        split: np.frombuffer(b"".join(values), np.uint8).reshape(len(values), 16) for split, values in hashes.items()
    }
