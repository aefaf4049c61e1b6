"""Verify: checksums of all files, completeness, the chain of provenance, and indexes against what the stores hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config import CHECKPOINTS
from pipeline.errors import StoreError
from pipeline.shards import Plan
from pipeline.steps.chain import Chain
from pipeline.steps.codes import CodeSet
from pipeline.steps.space import Space, open_space
from pipeline.steps.stores import common, open_candidates, open_codes
from pipeline.storage import indexes
from pipeline.storage.artefact import Manifest, faults, forget, manifest_path, read_manifest, remove
from pipeline.storage.layout import METRIC_OF, Layout

OWN_FORMAT = {"plan.json", "accepted.json", "failure.json"}
"""JSON files below results/ that are no manifests."""

WHITENED_OFF = 1e-4
"""How far half-whitened coordinates may be off: as float32 products they are rounded with the rows beside."""
SAMPLED_ROWS = 32
"""Rows of an index that are compared with the stores."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with an artefact, and whether removing it is the remedy."""

    artefact: Path
    what: str


def _known(expected: object) -> bool:
    """Whether all that an artefact is made from is there: what is missing or damaged is a fault of its own."""
    if isinstance(expected, dict):
        return all(map(_known, expected.values()))
    return all(map(_known, expected)) if isinstance(expected, list) else expected is not None


def find_faults(layout: Layout) -> tuple[int, list[Fault]]:
    """How many artefacts were checked, and what is wrong."""
    found: list[Fault] = []
    manifests: dict[Path, Manifest] = {}
    for place in sorted(layout.results.rglob("*.json")):
        if place.name in OWN_FORMAT or any(part.endswith(".zarr") for part in place.parts):
            continue
        try:
            manifest = read_manifest(place)
        except StoreError as error:
            found.append(Fault(place, str(error)))
            continue
        path = place.with_name(manifest.name)
        if manifest_path(path) != place:
            found.append(Fault(place, f"expected the manifest of an artefact beside it, got that of {manifest.name}"))
            continue
        manifests[path] = manifest
        found += [Fault(path, problem) for problem in faults(path, manifest)]
    found += _strays(layout, manifests)
    found += _chain(layout, manifests, {fault.artefact for fault in found})
    return len(manifests), found


def _strays(layout: Layout, manifests: dict[Path, Manifest]) -> Iterator[Fault]:
    """Content without a manifest: a job that was killed between the two."""
    for pattern in ("*.zarr", "*.safetensors", "*.faiss", "*.parquet"):
        for path in sorted(layout.results.rglob(pattern)):
            if path not in manifests and not path.name.startswith(".") and not manifest_path(path).exists():
                yield Fault(path, "expected a manifest beside it, got none: a job was stopped before it was whole")


def _chain(layout: Layout, manifests: dict[Path, Manifest], damaged: set[Path]) -> Iterator[Fault]:
    """Artefacts made from something else than what stands there now."""
    try:
        plan = Plan.load(layout.plan)
    except StoreError as error:
        yield Fault(layout.plan, str(error))
        return
    for path, key, expected in Chain(layout, plan, manifests).expected():
        if path in manifests and _known(expected) and manifests[path].identity.get(key) != expected:
            yield Fault(path, f"expected its {key} to be what stands in the run now, got another; run `lowland run`")
    yield from _unplanned(layout, plan, manifests)
    for checkpoint in CHECKPOINTS:
        for split in plan.splits:
            if layout.projection(checkpoint) in manifests.keys() - damaged:  # it says what codes mean
                yield from _set_faults(layout, plan, checkpoint, split, manifests, damaged)


def _unplanned(layout: Layout, plan: Plan, manifests: dict[Path, Manifest]) -> Iterator[Fault]:
    """Shards of rows that the data have no more."""
    for kind in ("gradients", "candidates"):
        for path in manifests:
            parts = path.relative_to(layout.results).parts
            planned = {shard.name for shard in plan.splits[parts[2]].shards} if len(parts) == 4 else set()
            if parts[0] == kind and len(parts) == 4 and path.stem not in planned:
                yield Fault(path, f"expected shards of {len(planned)} as planned, got one of rows that are no more")


def _set_faults(
    layout: Layout, plan: Plan, checkpoint: str, split: str, manifests: dict[Path, Manifest], damaged: set[Path]
) -> Iterator[Fault]:
    """What a reader of a split's shards would refuse, where the split has any, and what its indexes hold instead."""
    for place, opener in ((layout.gradients, open_codes), (layout.candidates, open_candidates)):
        paths = [place(checkpoint, split, shard.name) for shard in plan.splits[split].shards]
        here = [path for path in paths if path in manifests]
        if len(here) < len(paths) or not damaged.isdisjoint(here):  # told already, or not made yet
            continue
        try:
            codes = opener(layout, plan, checkpoint, split)
        except StoreError as error:
            yield Fault(_odd_one(here, manifests), str(error))
            continue
        if place == layout.gradients and split == "train":
            for metric in sorted(set(METRIC_OF.values())):
                index = layout.index(checkpoint, metric)
                if index in manifests:
                    yield from _index_faults(index, codes, open_space(layout, checkpoint, manifests[index].identity))


def _odd_one(paths: list[Path], manifests: dict[Path, Manifest]) -> Path:
    """The first shard that differs from most in what shards share; the first of all where there is none."""
    kinds = [common(manifests[path]) for path in paths]
    usual = max(kinds, key=kinds.count)
    return next((path for path, kind in zip(paths, kinds, strict=True) if kind != usual), paths[0])


def _index_faults(path: Path, codes: CodeSet, space: Space | None) -> Iterator[Fault]:
    """Ids of an index against the finite rows of the stores, and a sample of its vectors against their codes."""
    if space is None:
        yield Fault(path, "expected the whitening that it was built with beside it, got none or another")
        return
    try:
        index = indexes.load(path, 1)
        ids, wanted = np.sort(index.ids()), np.nonzero(codes.finite())[0]
        if not np.array_equal(ids, wanted):
            yield Fault(path, f"expected the {len(wanted)} finite rows of the stores in it, got {len(ids)} others")
            return
        sampled = wanted[np.linspace(0, len(wanted) - 1, min(SAMPLED_ROWS, len(wanted))).astype(int)]
        kept, rows = index.vectors(sampled), space.rows(codes.gather(sampled))
        error = max(index.error, WHITENED_OFF if space.whitening else 0)
        wrong = [] if kept is None else sampled[np.abs(kept - rows).max(1) > error * np.abs(rows).max()]
        if len(wrong):
            yield Fault(path, f"expected the codes of the stores in it, got other vectors, of row {wrong[0]} for one")
    except StoreError as error:
        yield Fault(path, str(error))


def repair(layout: Layout, found: list[Fault]) -> list[Path]:
    """Remove the artefacts that have a fault, and nothing else: the next run makes them, and what follows from them."""
    gone = list(dict.fromkeys(fault.artefact for fault in found))
    for path in gone:
        content = [path] if path.suffix != ".json" else [*path.parent.glob(f"{path.stem}.*")]
        for each in (*content, path):
            forget(each)
            manifest_path(each).unlink(missing_ok=True)
            remove(each)
    return gone
