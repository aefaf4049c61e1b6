"""Digests: of values, of files, and of the code behind a stage.

A code digest is taken from the syntax tree of a module and of every module of the package that it imports, without
docstrings and comments: moving a line or mending a sentence reruns nothing, changing what is computed reruns the stages
that import it.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import TaskError

PACKAGE = Path(__file__).parent
DIGEST_BYTES = 16


def digest_bytes(*parts: bytes) -> str:
    """Hex digest (blake2b, 16 bytes) of some byte strings; where one ends and the next begins counts."""
    state = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def digest_value(value: Any) -> str:
    """Hex digest of a JSON value; the order of keys does not count."""
    return digest_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def digest_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)).hexdigest()


def digest_code(files: Iterable[Path], ignored: tuple[str, ...] = ()) -> str:
    """Hex digest of the syntax trees of some modules and of all that they import from this package or beside them.

    Args:
        files: where to start.
        ignored: methods that do not count, in whatever class they stand.

    Raises:
        TaskError: a module is no Python.
    """
    found: dict[Path, str] = {}
    pending = [(path.resolve(), path.resolve().parent) for path in files]
    while pending:
        path, root = pending.pop()
        if path not in found:
            tree, imported = _module(path, root, ignored, path.stat().st_mtime_ns)
            found[path] = tree
            pending.extend((file, root) for file in imported)
    return digest_value(sorted(found.values()))


@cache
def _module(path: Path, root: Path, ignored: tuple[str, ...], _changed_ns: int) -> tuple[str, tuple[Path, ...]]:
    """The digest of one module's tree, and the files that it imports from this package or from below `root`."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        place = f"{path.name}, line {error.lineno}"
        raise TaskError(
            f"expected {path.name} to import, got SyntaxError: {error.msg} ({place}); mend that line"
        ) from error
    for node in ast.walk(tree):
        _drop_docstring(node)
        if isinstance(node, ast.ClassDef):
            node.body = [part for part in node.body if getattr(part, "name", None) not in ignored]
    imported = {file for name in _imports(tree, path, root) for file in _files_of(name, root)}
    return digest_bytes(path.name.encode(), ast.dump(tree).encode()), tuple(sorted(imported - {path}))


def _drop_docstring(node: ast.AST) -> None:
    if (
        isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and ast.get_docstring(node) is not None
    ):
        node.body = node.body[1:]


def _imports(tree: ast.AST, path: Path, root: Path) -> Iterable[str]:
    """Dotted names that a module imports, wherever the import stands; relative ones as seen from `root`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            name = ".".join([*_package(path, root, node.level), *filter(None, [node.module])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)


def _package(path: Path, root: Path, level: int) -> tuple[str, ...]:
    """The parts of the package that a relative import of some level starts from; none for an absolute import."""
    if level == 0 or not path.is_relative_to(root):
        return ()
    parts = path.relative_to(root).parent.parts
    return parts[: len(parts) - (level - 1)]


def _files_of(name: str, directory: Path) -> Iterable[Path]:
    """The source files behind a dotted name: in this package, or in `directory` for a user's own modules."""
    parts = name.split(".")
    inside = parts[0] == PACKAGE.name
    root = PACKAGE.parent if inside else directory
    if not inside and PACKAGE in (directory, *directory.parents):
        return
    # The package's own __init__ holds the version alone: a release is no reason to compute anything again.
    for depth in range(2 if inside else 1, len(parts) + 1):
        base = root.joinpath(*parts[:depth])
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                yield file.resolve()
