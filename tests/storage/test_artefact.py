"""Artefacts: complete or absent, and anything missing, cut short or altered is found and named."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from pipeline.errors import CapacityError, StoreError
from pipeline.storage import artefact
from pipeline.storage.artefact import (
    MANIFEST_FORMAT,
    create,
    faults,
    manifest_path,
    open_artefact,
    read_manifest,
    write_whole,
)

FILES = {"zarr.json": b"{}", "codes/zarr.json": b"{} ", "codes/c/0": b"0123456789", "codes/c/1": b"abcdef"}
IDENTITY = {"rows": {"start": 0, "stop": 3}, "inputs": ["a", "b"]}


def make(path: Path, files: dict[str, bytes] = FILES) -> Path:
    with create(path, "gradients", IDENTITY, {"stage": "gradients"}) as temporary:
        for name, content in files.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            (temporary / name).write_bytes(content)
    return path


def make_file(path: Path, content: bytes = b"weights") -> Path:
    with create(path, "checkpoint", {}, {}) as temporary:
        temporary.write_bytes(content)
    return path


def flip(file: Path, position: int = 0) -> None:
    """Another byte, the same size."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "deep" / "00000.zarr")


def test_a_written_artefact_opens_with_its_identity_files_and_record(store):
    manifest = open_artefact(store, "gradients")
    assert (manifest.kind, manifest.name, manifest.identity) == ("gradients", "00000.zarr", IDENTITY)
    assert manifest.record == {"stage": "gradients"} and manifest.bytes == 21
    assert set(manifest.files) == set(FILES) and list(faults(store, manifest)) == []
    assert sorted(path.name for path in store.parent.iterdir()) == [".00000.kept", "00000.json", "00000.zarr"]


def test_what_the_content_is_outlives_the_manifest(store):
    manifest = read_manifest(store)
    manifest_path(store).unlink()  # as Snakemake does before a job
    assert artefact.kept_manifest(store, "gradients") == manifest
    assert artefact.kept_manifest(store, "candidates") is None
    with pytest.raises(StoreError, match="got nothing there"):
        read_manifest(store)
    flip(store / next(iter(FILES)))
    assert artefact.kept_manifest(store, "gradients") is None


def test_content_that_is_forgotten_is_not_taken_over(store):
    artefact.forget(store)
    assert artefact.kept_manifest(store, "gradients") is None and read_manifest(store).kind == "gradients"


def test_a_single_file_is_an_artefact_too(tmp_path):
    path = make_file(tmp_path / "flat.safetensors")
    assert open_artefact(path, "checkpoint").files == {"": (7, read_manifest(path).files[""][1])}
    flip(path)
    with pytest.raises(StoreError, match=r"expected .*flat.safetensors as it was written, got other bytes"):
        open_artefact(path, "checkpoint")


def test_the_record_may_be_filled_within_the_block(tmp_path):
    record = {}
    with create(tmp_path / "x.zarr", "k", {}, record) as temporary:
        temporary.mkdir()
        record["seconds"] = 3
    assert read_manifest(tmp_path / "x.zarr").record == {"seconds": 3}


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.EACCES, "no")])
def test_a_crash_inside_the_block_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)), create(tmp_path / "x.zarr", "k", {}, {}) as temporary:
        temporary.mkdir()
        (temporary / "part").write_bytes(b"half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_a_crash_while_making_anew_leaves_the_old_artefact_whole(store):
    before = open_artefact(store, "gradients").digest
    with pytest.raises(RuntimeError), create(store, "gradients", IDENTITY, {}) as temporary:
        temporary.mkdir()
        raise RuntimeError("broken")
    assert open_artefact(store, "gradients").digest == before


def test_making_anew_replaces_all_of_the_old_content(store):
    make(store, {"zarr.json": b"{}"})
    assert set(open_artefact(store, "gradients").files) == {"zarr.json"}
    assert [path.name for path in store.iterdir()] == ["zarr.json"]


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".x.zarr.12345.tmp").mkdir()
    (tmp_path / ".x.zarr.12345.tmp" / "part").write_bytes(b"")
    (tmp_path / ".x.zarr.777.tmp").write_bytes(b"")
    (tmp_path / ".x.json.777.tmp").write_bytes(b"")
    (tmp_path / "..x.kept.777.tmp").write_bytes(b"")
    (tmp_path / ".y.zarr.777.tmp").write_bytes(b"another artefact's")
    make(tmp_path / "x.zarr")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.kept", ".y.zarr.777.tmp", "x.json", "x.zarr"]


def test_a_directory_that_nobody_writes_to_is_tidied(tmp_path):
    (tmp_path / ".plan.json.777.tmp").write_text("half")
    (tmp_path / ".x.kept").write_text("kept")
    (tmp_path / "plan.json").write_text("{}")
    artefact.tidy(tmp_path)
    artefact.tidy(tmp_path / "not there")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.kept", "plan.json"]


def test_the_manifest_is_written_last(tmp_path, monkeypatch):
    monkeypatch.setattr(
        artefact, "_write_manifest", lambda path, _: pytest.fail("no manifest") if not path.exists() else None
    )
    with create(tmp_path / "x.zarr", "k", {}, {}) as temporary:
        temporary.mkdir()
        assert not (tmp_path / "x.zarr").exists() and not manifest_path(tmp_path / "x.zarr").exists()
    assert (tmp_path / "x.zarr").is_dir()


def test_a_crash_before_the_manifest_leaves_no_artefact_that_opens(tmp_path, monkeypatch):
    def crash(*_):
        raise RuntimeError("power cut")

    monkeypatch.setattr(artefact, "_write_manifest", crash)
    with pytest.raises(RuntimeError):
        make(tmp_path / "x.zarr")
    with pytest.raises(StoreError, match="got nothing there"):
        open_artefact(tmp_path / "x.zarr", "gradients")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_matter_of_capacity(tmp_path, code):
    with (
        pytest.raises(
            CapacityError, match=r"expected room on disk for .*x.zarr, got a full disk; free some and run again"
        ),
        create(tmp_path / "x.zarr", "k", {}, {}) as temporary,
    ):
        temporary.mkdir()
        raise OSError(code, "full")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_for_the_manifest_is_no_other_matter(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(artefact, "write_whole", full)
    with pytest.raises(CapacityError):
        make(tmp_path / "x.zarr")


def test_a_block_that_writes_nothing_makes_no_artefact(tmp_path):
    with pytest.raises(FileNotFoundError), create(tmp_path / "x.zarr", "k", {}, {}):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("position", [0, -1])
def test_a_flipped_byte_in_any_file_is_found_and_named(store, name, position):
    flip(store / name, position)
    found = list(faults(store, read_manifest(store)))
    assert found == [f"expected {store / name} as it was written, got other bytes (its checksum differs)"]


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("zarr.json")])
def test_altered_metadata_of_a_store_is_refused_at_once(store, name):
    flip(store / name)
    with pytest.raises(
        StoreError, match=rf"{name} as it was written, got other bytes .*; delete .*00000.json and run `lowland run`"
    ):
        open_artefact(store, "gradients")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_short_is_refused_and_named(store, name):
    content = (store / name).read_bytes()
    (store / name).write_bytes(content[:-1])
    with pytest.raises(
        StoreError, match=rf"^expected {len(content)} bytes in .*{name}, got {len(content) - 1}; delete "
    ):
        open_artefact(store, "gradients")


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused_and_named(store, name):
    (store / name).unlink()
    with pytest.raises(StoreError, match=rf"^expected the file .*{name}, got nothing there; delete "):
        open_artefact(store, "gradients")


def test_all_faults_are_listed(store):
    (store / "codes/c/0").unlink()
    flip(store / "codes/c/1")
    assert len(list(faults(store, read_manifest(store)))) == 2


def test_large_files_are_only_checked_in_full_by_verify(store):
    flip(store / "codes/c/0")
    manifest = read_manifest(store)
    assert list(faults(store, manifest, checked_bytes=9)) == []
    assert len(list(faults(store, manifest, checked_bytes=10))) == 1


@pytest.mark.parametrize("key", ["seal", "kind", "name", "identity", "files", "record", "format"])
def test_an_altered_manifest_is_refused(store, key):
    place = manifest_path(store)
    value = json.loads(place.read_text())
    value[key] = {"zarr.json": [2, ""]} if key == "files" else "other"
    place.write_text(json.dumps(value))
    with pytest.raises(StoreError, match=r"expected a whole manifest at .*00000.json, got a damaged one; delete it"):
        read_manifest(store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "3", "null", '{"seal": "x", "format": 2}'])
def test_what_is_no_manifest_is_refused(store, text):
    manifest_path(store).write_text(text)
    with pytest.raises(StoreError, match="got a damaged one"):
        read_manifest(store)


def test_a_manifest_of_another_version_is_named_as_that(store):
    value = json.loads(manifest_path(store).read_text())
    manifest_path(store).write_text(json.dumps({**value, "format": MANIFEST_FORMAT - 1}))
    message = r"expected a manifest of format 2 at .*00000.json, got format 1, of another version of Lowland; run"
    with pytest.raises(StoreError, match=message):
        read_manifest(store)


def test_another_kind_is_refused(store):
    with pytest.raises(StoreError, match=r"expected curvature at .*00000.zarr, got gradients; delete it and run"):
        open_artefact(store, "curvature")


def test_the_digest_depends_on_identity_and_content_and_not_on_the_record(tmp_path):
    def digest(name, identity, content, record):
        with create(tmp_path / name, "k", identity, record) as temporary:
            temporary.write_bytes(content)
        return read_manifest(tmp_path / name).digest

    first = digest("a.x", {"i": 1}, b"x", {"seconds": 1})
    assert digest("b.x", {"i": 1}, b"x", {"seconds": 2}) == first
    assert digest("c.x", {"i": 2}, b"x", {}) != first and digest("d.x", {"i": 1}, b"y", {}) != first


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "plan.json"
    write_whole(path, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(artefact.os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        write_whole(path, "new")
    assert path.read_text() == "old" and [each.name for each in path.parent.iterdir()] == ["plan.json"]
