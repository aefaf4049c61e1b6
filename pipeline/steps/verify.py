"""Verify: checksums of all files, and the chain of provenance from every artefact to what it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import CHECKPOINTS, CURVATURE_SPLIT
from pipeline.errors import StoreError
from pipeline.shards import Plan
from pipeline.steps.stores import open_candidates, open_codes
from pipeline.storage.artefact import Manifest, faults, manifest_path, read_manifest
from pipeline.storage.layout import Layout

OWN_FORMAT = {"plan.json", "accepted.json", "failure.json"}
"""JSON files below results/ that are no manifests."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with an artefact."""

    artefact: Path
    what: str


def find_faults(layout: Layout) -> tuple[int, list[Fault]]:
    """How many artefacts were checked, and what is wrong."""
    manifests: dict[Path, Manifest] = {}
    found: list[Fault] = []
    for place in sorted(layout.results.rglob("*.json")):
        if place.name in OWN_FORMAT or any(part.endswith(".zarr") for part in place.parts):
            continue
        try:
            manifest = read_manifest(place)
        except StoreError as error:
            found.append(Fault(place, str(error)))
            continue
        path = place.with_name(manifest.name)
        manifests[path] = manifest
        found += [Fault(path, problem) for problem in faults(path, manifest)]
    found += _strays(layout, manifests)
    found += _chain(layout, manifests)
    return len(manifests), found


def _strays(layout: Layout, manifests: dict[Path, Manifest]) -> Iterator[Fault]:
    """Content without a manifest: a job that was killed between the two."""
    for pattern in ("*.zarr", "*.safetensors", "*.faiss", "*.parquet"):
        for path in sorted(layout.results.rglob(pattern)):
            if path not in manifests and not path.name.startswith(".") and not manifest_path(path).exists():
                yield Fault(path, "expected a manifest beside it, got none: a job was stopped before it was whole")


def _chain(layout: Layout, manifests: dict[Path, Manifest]) -> Iterator[Fault]:
    """Artefacts made from something else than what stands there now."""
    plan = Plan.load(layout.plan)
    for path, key, expected in _expectations(layout, plan, manifests):
        if path in manifests and manifests[path].identity.get(key) != expected:
            yield Fault(path, f"expected its {key} to be what stands in the run now, got another; run `lowland run`")
    for checkpoint in CHECKPOINTS:
        for split in plan.splits:
            yield from _set_faults(layout, plan, checkpoint, split, manifests)


def _expectations(layout: Layout, plan: Plan, manifests: dict[Path, Manifest]) -> Iterator[tuple[Path, str, Any]]:
    """(artefact, key of its identity, the value that it must have)."""

    def digest(path: Path) -> str | None:
        return manifests[path].digest if path in manifests else None

    def digests(place: Callable[[str, str, str], Path], checkpoint: str, split: str) -> list[str | None]:
        return [digest(place(checkpoint, split, shard.name)) for shard in plan.splits[split].shards]

    yield layout.checkpoint("flat"), "trained", digest(layout.checkpoint("trained"))
    for checkpoint in CHECKPOINTS:
        weights, projection = digest(layout.checkpoint(checkpoint)), digest(layout.projection(checkpoint))
        yield layout.projection(checkpoint), "checkpoint", weights
        split = CURVATURE_SPLIT[checkpoint]
        curvature = layout.curvature(checkpoint, split)
        summed = layout.candidates if _kind(manifests, curvature) == "ggn" else layout.gradients
        yield curvature, "inputs", digests(summed, checkpoint, split)
        for split in ("validation", "query"):
            if plan.splits[split].rows:
                yield layout.vectors(checkpoint, split), "curvature", digest(curvature)
                yield layout.vectors(checkpoint, split), "gradients", digests(layout.gradients, checkpoint, split)
        for split, rows in plan.splits.items():
            for shard in rows.shards:
                for place in (layout.gradients, layout.candidates):
                    yield place(checkpoint, split, shard.name), "checkpoint", weights
                    yield place(checkpoint, split, shard.name), "projection", projection
        for metric in ("inner", "cosine"):
            if _whitened(manifests, layout.index(checkpoint, metric)):
                yield layout.index(checkpoint, metric), "whitening", digest(layout.whitening(checkpoint))
            yield layout.index(checkpoint, metric), "gradients", digests(layout.gradients, checkpoint, "train")
    made = [layout.curvature(checkpoint, CURVATURE_SPLIT[checkpoint]) for checkpoint in ("flat", "trained")]
    yield layout.scores, "curvature", [digest(path) for path in made]
    for table in ("mislabel", "relabel"):
        yield layout.evaluation(table), "scores", digest(layout.scores)
    yield layout.report, "scores", digest(layout.scores)
    yield layout.report, "topk", digest(layout.topk)


def _whitened(manifests: dict[Path, Manifest], index: Path) -> bool:
    return index in manifests and manifests[index].identity.get("whitening") is not None


def _kind(manifests: dict[Path, Manifest], curvature: Path) -> str | None:
    return manifests[curvature].identity["curvature"]["kind"] if curvature in manifests else None


def _set_faults(
    layout: Layout, plan: Plan, checkpoint: str, split: str, manifests: dict[Path, Manifest]
) -> Iterator[Fault]:
    """What a reader of a split's shards would refuse, where the split has any."""
    for place, opener in ((layout.gradients, open_codes), (layout.candidates, open_candidates)):
        paths = [place(checkpoint, split, shard.name) for shard in plan.splits[split].shards]
        if any(path in manifests for path in paths):
            try:
                opener(layout, plan, checkpoint, split)
            except StoreError as error:
                yield Fault(paths[0].parent, str(error))
