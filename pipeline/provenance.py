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

from blake3 import blake3

from pipeline.errors import TaskError

PACKAGE = Path(__file__).parent
DIGEST_BYTES = 16
READ_BYTES = 2**20
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
"""Nodes whose body may begin with a docstring."""


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
    """Hex digest (blake3, 16 bytes) of a file's bytes: some gigabytes a second, as every opened artefact is checked."""
    state = blake3()
    with path.open("rb", buffering=0) as stream:
        while block := stream.read(READ_BYTES):
            state.update(block)
    return state.hexdigest(length=DIGEST_BYTES)


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
    spelt: list[str] = []
    found: list[ast.Import | ast.ImportFrom] = []
    _spell(tree, ignored, spelt, found)
    names = {name for node in found for name in _imported(node, path, root)}
    imported = {file for name in names for file in _files_of(name, root)}
    return digest_bytes(path.name.encode(), "".join(spelt).encode()), tuple(sorted(imported - {path}))


def _spell(node: ast.AST, ignored: tuple[str, ...], spelt: list[str],
           imports: list[ast.Import | ast.ImportFrom]) -> None:  # fmt: skip
    """Spell a tree out, without docstrings, places in the text, and ignored methods; finds the imports in it."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        imports.append(node)
    spelt.append(f"{type(node).__name__}(")
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, ast.AST):
            _spell(value, ignored, spelt, imports)
        elif isinstance(value, list):
            spelt.append("[")
            for part in _counted(node, value, ignored) if name == "body" else value:
                if isinstance(part, ast.AST):
                    _spell(part, ignored, spelt, imports)
                else:
                    spelt.append(f"{part!r},")
            spelt.append("]")
        else:
            spelt.append(f"{value!r},")
    spelt.append(")")


def _counted(node: ast.AST, body: list[ast.stmt], ignored: tuple[str, ...]) -> list[ast.stmt]:
    """The statements of a body that can change what is computed."""
    if isinstance(node, DOCUMENTED) and body and isinstance(body[0], ast.Expr):
        text = body[0].value
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            body = body[1:]
    if isinstance(node, ast.ClassDef):
        body = [part for part in body if getattr(part, "name", None) not in ignored]
    return body


def _imported(node: ast.Import | ast.ImportFrom, path: Path, root: Path) -> Iterable[str]:
    """Dotted names that a statement imports; relative ones as seen from `root`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
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
