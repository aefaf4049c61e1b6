"""An artefact is a file or directory with a manifest beside it; both are whole, or the artefact does not exist.

The content is written under a temporary name, made durable, renamed, and only then the manifest is written (the same
way): the manifest is what Snakemake sees as a rule's output. It has three parts.

* *identity*: what the artefact is (configuration, digests of its inputs, rows). Readers refuse to mix identities.
* *files*: size and digest of every file, so that anything missing, cut short or altered is found.
* *record*: how it came about (versions, code digest, seconds). Reported, never refused.

Snakemake deletes the outputs of a job before it runs, and so the manifest, but not the content. A copy of the manifest
under a hidden name stays: a stage that can take over parts of its former result finds there what the content is. The
copy makes no artefact; what matters to readers is the manifest.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import CapacityError, StoreError
from pipeline.provenance import digest_file, digest_value

MANIFEST_FORMAT = 2
"""2: files are named by blake3."""
KEPT = ".*.kept"
"""Copies of manifests, of what may be taken over."""
CHECKED_BYTES = 256 * 2**20
"""Artefacts up to this size are checked by their digests whenever they are opened; larger ones by `lowland verify`."""


@dataclass(frozen=True)
class Manifest:
    """What stands beside an artefact."""

    kind: str
    name: str
    identity: dict[str, Any]
    files: dict[str, tuple[int, str]]
    record: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """Digest of identity and content: what later artefacts name as their input."""
        return digest_value([self.kind, self.identity, {name: list(entry) for name, entry in self.files.items()}])

    @property
    def bytes(self) -> int:
        """Size of the content."""
        return sum(size for size, _ in self.files.values())


def manifest_path(path: Path) -> Path:
    """Where the manifest of the artefact at `path` stands."""
    return path.with_suffix(".json")


def kept_path(path: Path) -> Path:
    """Where the copy of the manifest of the artefact at `path` stands."""
    return path.with_name(f".{path.stem}.kept")


def read_manifest(path: Path) -> Manifest:
    """The manifest of the artefact at `path`.

    Raises:
        StoreError: there is none, or it was altered.
    """
    return _read(manifest_path(path), path)


def kept_manifest(path: Path, kind: str) -> Manifest | None:
    """What the content at `path` is, artefact or not any more; None unless every byte is as it was written."""
    try:
        manifest = _read(kept_path(path), path)
    except StoreError:
        return None
    return manifest if manifest.kind == kind and next(faults(path, manifest), None) is None else None


def forget(path: Path) -> None:
    """Let nothing be taken over from the content at `path`."""
    kept_path(path).unlink(missing_ok=True)


def _read(place: Path, path: Path) -> Manifest:
    try:
        value = json.loads(place.read_text(encoding="utf-8"))
        written, seal = value.pop("format"), value.pop("seal")
        if written != MANIFEST_FORMAT and isinstance(written, int):
            raise StoreError(
                f"expected a manifest of format {MANIFEST_FORMAT} at {place}, got format {written}, of another version "
                "of Lowland; run `lowland run`, which makes the artefact again"
            )
        if written != MANIFEST_FORMAT or seal != digest_value(value):
            raise ValueError("seal")
        files = {name: (size, digest) for name, (size, digest) in value.pop("files").items()}
        return Manifest(files=files, **value)
    except FileNotFoundError as error:
        raise StoreError(f"expected the artefact {path}, got nothing there; run `lowland run`") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"expected a whole manifest at {place}, got a damaged one; delete it and run `lowland run`"
        ) from error


def open_artefact(path: Path, kind: str) -> Manifest:
    """The manifest of an artefact whose content was found complete and unaltered.

    Raises:
        StoreError: nothing there, of another kind, incomplete or altered.
    """
    manifest = read_manifest(path)
    if manifest.kind != kind:
        raise StoreError(f"expected {kind} at {path}, got {manifest.kind}; delete it and run `lowland run`")
    # Arrays check their chunks themselves, when these are read.
    whole = path.suffix != ".zarr" and sum(size for size, _ in manifest.files.values()) <= CHECKED_BYTES
    problem = next(faults(path, manifest, checked_bytes=None if whole else 0), None)
    if problem:
        raise StoreError(f"{problem}; delete {manifest_path(path)} and run `lowland run`")
    return manifest


def faults(path: Path, manifest: Manifest, checked_bytes: int | None = None) -> Iterator[str]:
    """What is wrong with an artefact's files, a sentence each.

    Args:
        path: the artefact.
        manifest: what it should be.
        checked_bytes: compare digests of files up to this size (small metadata files always); None: of all.
    """
    for name, (size, digest) in manifest.files.items():
        file = path / name if name else path
        actual = file.stat().st_size if file.is_file() else None
        if actual is None:
            yield f"expected the file {file}, got nothing there"
        elif actual != size:
            yield f"expected {size} bytes in {file}, got {actual}"
        elif _is_checked(name, size, checked_bytes) and digest_file(file) != digest:
            yield f"expected {file} as it was written, got other bytes (its checksum differs)"


def _is_checked(name: str, size: int, checked_bytes: int | None) -> bool:
    return checked_bytes is None or size <= checked_bytes or name.endswith("zarr.json")


@contextmanager
def create(path: Path, kind: str, identity: dict[str, Any], record: dict[str, Any]) -> Iterator[Path]:
    """Write an artefact: yields a temporary path to write to, and commits when the block ends without an error.

    `record` may still be filled within the block. Whatever stood at `path` before is replaced in the last step.

    Raises:
        CapacityError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        files = _list_files(temporary)
        manifest_path(path).unlink(missing_ok=True)
        forget(path)
        remove(path)
        temporary.rename(path)
        _write_manifest(path, Manifest(kind, path.name, identity, files, record))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CapacityError(
                f"expected room on disk for {path}, got a full disk; free some and run again"
            ) from error
        raise
    finally:
        remove(temporary)


def write_whole(path: Path, text: str, alone: bool = False) -> None:
    """Write a small text file so that readers see the old content or the new, never a part.

    Args:
        path: the file.
        text: its content.
        alone: nobody else writes it now, so that what a killed process left of it can be removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if alone:
        _remove_leftovers(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
        _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    _sync_directory(path.parent)
    value = json.loads(json.dumps(asdict(manifest)))
    text = json.dumps({"format": MANIFEST_FORMAT, "seal": digest_value(value), **value}, indent=1)
    for place in (kept_path(path), manifest_path(path)):
        write_whole(place, text, alone=True)


def _list_files(root: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of a file ("") or of all files below a directory, each made durable."""
    if root.is_file():
        return {"": _describe(root)}
    files = sorted(file for file in root.rglob("*") if file.is_file())
    listed = {str(file.relative_to(root)): _describe(file) for file in files}
    for directory in (root, *(place for place in root.rglob("*") if place.is_dir())):
        _sync_directory(directory)
    return listed


def _describe(file: Path) -> tuple[int, str]:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())
    return file.stat().st_size, digest_file(file)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process left; a workflow's lock makes sure that nobody else writes this artefact."""
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        remove(leftover)


def tidy(directory: Path) -> None:
    """Remove what killed processes left in a directory whose files nobody writes now."""
    for leftover in directory.glob(".*.tmp"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
