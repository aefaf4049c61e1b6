"""Whether the plan still describes the data.

Light: asked whenever the workflow is parsed, and then mostly answered by a few file times, without importing the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.errors import CheckpointError, StoreError, TaskError
from pipeline.provenance import digest_code, digest_file, digest_value
from pipeline.shards import Plan
from pipeline.steps import tombstones
from pipeline.storage.artefact import open_artefact
from pipeline.storage.layout import Layout
from pipeline.tasks.names import task_file

READ_BYTES = 2**24
"""Files up to this size are read: a clock that jumps back may repeat a time."""


def is_stale(layout: Layout, config: Config) -> bool:
    """Whether the plan has to be made, or looked at by the task itself (which alone knows a fingerprint of its own).

    Raises:
        CheckpointError: the config names a file of weights that is not there.
        TaskError: a file of the data is missing.
    """
    weights = config.task.checkpoint
    if weights is not None and not Path(weights).is_file():
        raise CheckpointError(f"expected weights at {weights}, got nothing there; check task.checkpoint")
    try:
        stamp = Plan.load(layout.plan).stamp
        open_artefact(layout.hashes, "rows")
        open_artefact(layout.inputs, "inputs")
    except StoreError:
        return True
    sources, present = stamp["sources"], stamp_of(config, stamp["sources"], tombstones.stamp(layout))
    if not isinstance(sources, dict) or stamp != present:
        return True
    return bool(sources != stamp_of_files(list(sources)))


def stamp_of(config: Config, sources: Any, retired: str) -> dict[str, Any]:
    """What a plan is made from, without a look at any row."""
    file = task_file(config.task.class_)
    return {
        "task": digest_value([config.task.plain(), config.task.data]),
        "code": digest_code([file] if file.is_file() else []),
        "sources": sources,
        "shard_rows": config.plan.shard_rows,
        "retired": retired,
        "weights": _weights(config.task.checkpoint),
    }


def _weights(path: str | None) -> list[Any]:
    """Stamp of the user's file of weights; empty where there is none."""
    return [] if path is None else _stamp(Path(path))


def stamp_of_files(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Size and time of files, and the digest of small ones; directories with all that is below them.

    Raises:
        TaskError: a file is missing.
    """
    return {str(path): _stamp(Path(path)) for path in paths}


def _stamp(path: Path) -> list[Any]:
    if path.is_dir():
        return [[str(file.relative_to(path)), *_stamp(file)] for file in sorted(path.rglob("*")) if file.is_file()]
    if not path.is_file():
        raise TaskError(
            f"expected the data file {path} that the task's sources() names, got nothing there; check the path"
        )
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns, digest_file(path) if stat.st_size <= READ_BYTES else ""]
