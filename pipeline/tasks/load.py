"""From the name of a task in the config to the task.

A spec is the name of a built-in task, or `path/to/file.py:Class`, the path being relative to the config's directory.
Options whose parameter is annotated as `Path` arrive as absolute paths, relative to the same directory.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_type_hints

from pipeline.errors import InputError, TaskError
from pipeline.tasks.base import Task
from pipeline.tasks.blame import blame
from pipeline.tasks.names import BUILT_IN


def load(spec: str, options: dict[str, Any], directory: Path) -> Task:
    """The task that a config names.

    Args:
        spec: a key of `BUILT_IN`, or `file.py:Class`.
        options: keyword arguments of the class.
        directory: where relative paths start; the directory of the config.

    Raises:
        TaskError: no such task, or its file, class or options do not work.
        InputError: whatever of its kinds the task itself raises, for example DataError for missing files.
    """
    file, name = _file_and_class(spec, directory)
    if file is None:
        module, name = BUILT_IN[spec].split(":")
        return _make(getattr(importlib.import_module(module), name), options, directory, "")
    with _importable(file.parent):
        return _make(_task_class(_import(file), name, file), options, directory, str(file))


def _file_and_class(spec: str, directory: Path) -> tuple[Path | None, str]:
    """(None, spec) for a built-in task, else the existing file and the name of the class."""
    if spec in BUILT_IN:
        return None, spec
    path, colon, name = spec.rpartition(":")
    if spec.endswith(".py"):
        raise TaskError(f"expected file.py:Class, got '{spec}'; add the name of the class, '{spec}:MyTask'")
    if not colon or not path.endswith(".py"):
        raise TaskError(f"expected a built-in task or file.py:Class, got '{spec}'; {_nearest(spec, BUILT_IN)}")
    file = (directory / path).resolve()
    if not file.is_file():
        raise TaskError(f"expected a Python file at {file}, found none; mend the path in task.class '{spec}'")
    return file, name


def _nearest(word: str, known: dict[str, Any] | list[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known are: {', '.join(sorted(known)) or 'none'}"


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """`folder` first on sys.path, so that the user's modules find their neighbours."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _import(file: Path) -> ModuleType:
    """The module in `file` under a private name of its own, which no other module can shadow.

    It is compiled from its text each time: cached bytecode would go stale when a file is edited twice in one second.
    """
    name = f"_lowland_task_{hashlib.blake2b(str(file).encode(), digest_size=6).hexdigest()}"
    module = ModuleType(name)
    module.__file__ = str(file)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up here
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise TaskError(f"expected {file.name} to import, got {blame(error, file)}; mend that line") from error
    return module


def _task_class(module: ModuleType, name: str, file: Path) -> type[Task]:
    """The concrete Task called `name` in `module`."""
    found = vars(module).get(name)
    if found is None:
        own = [
            key for key, value in vars(module).items() if inspect.isclass(value) and value.__module__ == module.__name__
        ]
        raise TaskError(f"expected a class '{name}' in {file.name}, found none of that name; {_nearest(name, own)}")
    if not (inspect.isclass(found) and issubclass(found, Task)):
        got = (
            f"a class that is not one: write class {name}(Task)"
            if inspect.isclass(found)
            else f"{type(found).__name__}"
        )
        raise TaskError(
            f"expected '{name}' in {file.name} to be a Task, got {got}; "
            "`from pipeline.tasks.base import Task` and inherit it"
        )
    if missing := sorted(found.__abstractmethods__):
        raise TaskError(
            f"expected {name} in {file.name} to have all required methods, got none called {', '.join(missing)}; "
            "write them as pipeline.tasks.base.Task describes"
        )
    return found


def _make(cls: type[Task], options: dict[str, Any], directory: Path, file: str) -> Task:
    """An instance, the options checked against the constructor first."""
    _check_options(cls, options)
    try:
        return cls(**_resolve_paths(cls, options, directory))
    except InputError:
        raise  # a built-in or a careful user has said it already
    except Exception as error:
        place = blame(error, file or inspect.getfile(cls))
        raise TaskError(
            f"expected {cls.__name__}({_listed(options)}) to be made, got {place}; mend the options or the class"
        ) from error


def _listed(options: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def _check_options(cls: type[Task], options: dict[str, Any]) -> None:
    parameters = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = {key: p for key, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in options:
        if key not in named and not takes_any:
            raise TaskError(f"expected options of {cls.__name__}, got '{key}'; {_nearest(key, named)}")
    missing = [key for key, p in named.items() if p.default is p.empty and key not in options]
    if missing:
        raise TaskError(
            f"expected the option {', '.join(missing)} of {cls.__name__}, got none; add it under task.options"
        )


def _resolve_paths(cls: type[Task], options: dict[str, Any], directory: Path) -> dict[str, Any]:
    try:
        hints = get_type_hints(cls.__init__)
    except Exception:  # annotations that do not evaluate are the user's business
        return options
    return {
        key: (directory / value).resolve() if isinstance(value, str) and _is_path(hints.get(key)) else value
        for key, value in options.items()
    }


def _is_path(hint: Any) -> bool:
    return hint is Path or Path in get_args(hint)
