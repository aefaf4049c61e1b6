"""Opening what earlier stages left: completeness, provenance and decoding in one place. Needs no torch.

A reader names what it expects (checkpoint, split); shards of one split must share everything but their rows, and must
be those that the plan lists. Otherwise the answer would mix two things, and is refused.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path
from typing import Any

from pipeline.core.codec import Codec
from pipeline.errors import StoreError
from pipeline.shards import Plan, Shard
from pipeline.steps.codes import CodeSet, CodeShard
from pipeline.storage.artefact import Manifest, open_artefact
from pipeline.storage.layout import Layout
from pipeline.storage.opened import open_arrays


def open_codes(layout: Layout, plan: Plan, checkpoint: str, split: str) -> CodeSet:
    """The gradients of a split at a checkpoint.

    Raises:
        StoreError: a shard is missing, damaged, of other rows than planned, or made from something else than the
        others.
    """
    paths = [layout.gradients(checkpoint, split, shard.name) for shard in plan.splits[split].shards]
    return _open_set(layout, plan, checkpoint, split, paths, "gradients")


def open_candidates(layout: Layout, plan: Plan, checkpoint: str, split: str) -> CodeSet:
    """The gradients of a split's rows under every label."""
    paths = [layout.candidates(checkpoint, split, shard.name) for shard in plan.splits[split].shards]
    return _open_set(layout, plan, checkpoint, split, paths, "candidates")


def _open_set(layout: Layout, plan: Plan, checkpoint: str, split: str, paths: list[Path], kind: str) -> CodeSet:
    codec, projection = open_codec(layout, checkpoint)
    shards = []
    for planned, path in zip(plan.splits[split].shards, paths, strict=True):
        manifest = open_artefact(path, kind)
        _check_rows(path, manifest, planned)
        retired = _within(plan.retired, planned) if split == "train" else ()
        shards.append(CodeShard(path, manifest, planned.start, codec, planned.dropped, retired))
    for shard in shards:
        check_same(shards[0].path, common(shards[0].manifest), shard.path, common(shard.manifest))
        if shard.manifest.identity["projection"] != projection.digest:
            raise StoreError(
                f"expected {shard.path} made with the projection at {layout.projection(checkpoint)}, got another one; "
                "run `lowland run`"
            )
    return CodeSet(tuple(shards), plan.splits[split].rows)


def common(manifest: Manifest) -> dict[str, Any]:
    """What the shards of one split share: their identity without the rows."""
    return {key: value for key, value in manifest.identity.items() if key not in ("rows", "shard")}


def check_same(first: Path, expected: dict[str, Any], second: Path, got: dict[str, Any]) -> None:
    """Refuse to mix two identities, naming what differs."""
    if expected != got:
        differing = sorted(key for key in {*expected, *got} if expected.get(key) != got.get(key))
        raise StoreError(
            f"expected stores of one provenance, got {first} and {second}, which differ in {', '.join(differing)}; "
            "run `lowland run` to make them anew"
        )


def retired_of(plan: Plan, split: str) -> list[int]:
    """Positions of a split's rows that take part in no answer, for an identity."""
    return list(plan.retired) if split == "train" else []


def _within(positions: tuple[int, ...], shard: Shard) -> tuple[int, ...]:
    """Those of the ascending positions that are in a shard."""
    return positions[bisect_left(positions, shard.start) : bisect_left(positions, shard.stop)]


def _check_rows(path: Path, manifest: Manifest, planned: Shard) -> None:
    got = manifest.identity["rows"]
    if got != planned.plain():
        start, stop = planned.start, planned.stop
        if (got["start"], got["stop"]) != (start, stop):
            what = f"rows {got['start']} to {got['stop'] - 1}"
        else:
            what = "other contents" if got["content"] != planned.content else "others of them dropped"
        raise StoreError(f"expected rows {start} to {stop - 1} as planned in {path}, got {what}; run `lowland run`")


def open_codec(layout: Layout, checkpoint: str) -> tuple[Codec, Manifest]:
    """The codec that was fitted with the projection of a checkpoint."""
    manifest, arrays = open_arrays(layout.projection(checkpoint), "projection")
    return Codec(manifest.identity["gradients"]["codec"], arrays.read("column_scale")), manifest
