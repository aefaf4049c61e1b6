"""What the report says beside its answers: minimum, curvature, indexes, and where everything came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import CHECKPOINTS, CURVATURE_SPLIT
from pipeline.errors import StoreError
from pipeline.report.data import (
    Candidate,
    Curvature,
    FlaggedRow,
    Flattening,
    Index,
    Made,
    Sharpness,
)
from pipeline.shards import Plan
from pipeline.storage.artefact import Manifest, manifest_path, open_artefact, read_manifest
from pipeline.storage.layout import METRIC_OF, Layout
from pipeline.storage.opened import open_arrays

KINDS = {
    "fisher": "empirical Fisher",
    "ggn": "generalised Gauss-Newton",
    "diagonal": "diagonal Fisher",
    "identity": "identity",
}
METHODS = {"plain": "fine-tuning (VM)", "sam": "SAM", "asam": "ASAM", "lpf": "LPF-SGD"}


def flattening(layout: Layout) -> Flattening:
    """How the flat minimum was found."""
    manifest = open_artefact(layout.checkpoint("flat"), "checkpoint")
    section, choice = manifest.identity["flatten"], manifest.record["choice"]
    candidates = [
        Candidate(
            trial["strength"],
            trial["curve"][-1][1],
            tuple(map(tuple, trial["curve"])),
            trial["strength"] == choice["strength"],
        )
        for trial in choice["trials"]
        if trial["curve"]
    ]
    return Flattening(
        method=METHODS[section["method"]],
        strength=manifest.identity["strength"],
        strength_name="gamma" if section["method"] == "lpf" else "rho",
        chosen=choice["reason"],
        candidates=candidates,
        history=tuple(map(tuple, manifest.record["history"])),
        verdict=f"{choice['verdict'].capitalize()}.",
    )


def sharpness(layout: Layout) -> list[Sharpness]:
    """Sharpness before and after."""
    measured = open_artefact(layout.checkpoint("flat"), "checkpoint").record["sharpness"]
    names = ("sam_rise", "noise_rise", "noise_error", "eigenvalue", "eigenvalue_error")
    return [Sharpness(checkpoint, **{name: values[name] for name in names}) for checkpoint, values in measured.items()]


def curvatures(layout: Layout) -> list[Curvature]:
    """The curvature matrices with their spectra."""
    found = []
    for checkpoint, split in CURVATURE_SPLIT.items():
        manifest, arrays = open_arrays(layout.curvature(checkpoint, split), "curvature")
        section = manifest.identity["curvature"]
        found.append(
            Curvature(
                name=f"{checkpoint}-{split}",
                kind=KINDS[section["kind"]],
                rows=manifest.identity["rows"],
                rank=manifest.record["rank"],
                damping=section["damping"],
                absolute=manifest.record["damping"],
                eigenvalues=arrays.read("values"),
            )
        )
    return found


def indexes(layout: Layout) -> list[Index]:
    """The indexes that were built, with their measured recall."""
    paths = [
        layout.index(checkpoint, metric) for checkpoint in CHECKPOINTS for metric in sorted(set(METRIC_OF.values()))
    ]
    manifests = [read_manifest(path) for path in paths if manifest_path(path).is_file()]
    return [
        Index(
            Path(m.name).stem,
            m.identity["metric"],
            m.identity["index"]["factory"],
            m.identity["rows"],
            m.record["recall"],
        )
        for m in manifests
    ]


def flagged(layout: Layout, plan: Plan) -> list[FlaggedRow]:
    """Rows whose loss or gradient is not finite."""
    found = []
    for checkpoint in CHECKPOINTS:
        for split, rows in plan.splits.items():
            for shard in rows.shards:
                path = layout.gradients(checkpoint, split, shard.name)
                if manifest_path(path).is_file():
                    bad = read_manifest(path).record["flagged"]
                    found += [FlaggedRow(split, row, f"loss or gradient not finite at {checkpoint}") for row in bad]
    return found


def warnings(layout: Layout, plan: Plan, unseen: float) -> list[str]:
    """What a reader must know before trusting the page."""
    said = []
    if unseen:
        said.append(
            f"{unseen:.1%} of the train rows came after the checkpoints were made; `lowland run --refit` starts anew."
        )
    verdict = open_artefact(layout.checkpoint("flat"), "checkpoint").record["choice"]["verdict"]
    if "settled" not in verdict and "not watched" not in verdict:
        said.append(f"The flat minimum: {verdict}.")
    if not plan.labelled:
        said.append("The task gives no labels, so no label is suggested.")
    return said


def provenance(layout: Layout) -> list[Made]:
    """All artefacts, in the order in which they were written."""
    made = []
    for place in layout.results.rglob("*.json"):
        manifest = _manifest(place)
        if manifest is not None:
            made.append(
                (manifest.record["written"], str(place.relative_to(layout.results).with_name(manifest.name)), manifest)
            )
    return [_made(name, manifest) for _, name, manifest in sorted(made, key=lambda each: each[:2])]


def _manifest(place: Path) -> Manifest | None:
    try:
        return read_manifest(place)
    except StoreError:
        return None


def _made(name: str, manifest: Manifest) -> Made:
    record: dict[str, Any] = manifest.record
    by = f"{record['stage']} {record['code'][:8]}"
    return Made(name, manifest.digest, by, record["written"], record["seconds"], manifest.bytes)
