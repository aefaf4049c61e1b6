"""Whether two runs hold the same: every artefact bit for bit by the digests in its manifest, and the answers in full."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.storage.artefact import Manifest, read_manifest
from tests.workflow.runs import artefacts, ask

ANSWERS = (
    ("suspects", "{run}", "--top", "10", "--json"),
    ("query", "{run}", "--row", "query:0", "-k", "5", "--json"),
    ("query", "{run}", "--row", "query:1", "-k", "5", "--bottom", "--exact", "--json"),
)
TOLD = ("report",)
"""Kinds that tell of machines and hours."""


def differences(one: Path, other: Path) -> list[str]:
    """What differs, a line each."""
    names = artefacts(one)
    lines = [f"{name} is in one run only" for name in sorted(names ^ artefacts(other))]
    for name in sorted(names & artefacts(other)):
        lines += _compare(name, *(read_manifest(run / "results" / name) for run in (one, other)))
    for question in ANSWERS:
        answers = [ask(*(word.format(run=run) for word in question)) for run in (one, other)]
        if answers[0].code or answers[0] != answers[1]:
            lines.append(f"`lowland {' '.join(question)}` is answered differently")
    return lines


def _compare(name: str, one: Manifest, other: Manifest) -> list[str]:
    if one.kind in TOLD or one.digest == other.digest:
        return []
    keys = [key for key in {**one.identity, **other.identity} if one.identity.get(key) != other.identity.get(key)]
    files = [file for file in {**one.files, **other.files} if one.files.get(file) != other.files.get(file)]
    return [f"{name} differs: identity in {json.dumps(keys)}, bytes of {json.dumps(files[:3])}"]


def faults(run: Path) -> list[str]:
    """What `lowland verify` finds, and temporary files that were left."""
    answer = ask("verify", run)
    left = [f"{file} was left" for file in sorted((run / "results").rglob(".*.tmp"))]
    return ([answer.out + answer.err] if answer.code else []) + left
