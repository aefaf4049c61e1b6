"""Why a job would run, in words: from what Snakemake says about its inputs, outputs and params.

Params are told apart by their first word; the sections of the configuration are JSON.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

KINDS = {
    "Forced execution": "forced",
    "Missing output files: ": "not made yet, or lost",
    "Incomplete output files: ": "broken off",
    "Updated input files: ": "changed since: {}",
    "Input files updated by another job: ": "follows from {}",
    "Set of input files has changed since last execution": "other inputs than before",
    "Code has changed since last execution": "its rule has changed",
    "Params have changed since last execution: ": "",
}
"""How a reason of Snakemake's begins, and what it means; {} stands for the files."""

START = re.compile("(?:^|; )(?=" + "|".join(map(re.escape, KINDS)) + ")")
LITERAL = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
SHARD = re.compile(r"(.*)/\d+$")


def words(reason: str) -> list[str]:
    """The reasons of a job.

    >>> words("Input files updated by another job: results/gradients/flat/train/00001.json, results/query/topk.json")
    ['follows from gradients/flat/train (1 shard), query/topk']
    >>> words("Forced execution")
    ['forced']
    """
    said = []
    for part in filter(None, START.split(reason)):
        begin = next((kind for kind in KINDS if part.startswith(kind)), None)
        if begin is None:
            said.append(part.lower())
        elif begin.startswith("Params"):
            said += _changes(part)
        else:
            said.append(KINDS[begin].format(_files(part.removeprefix(begin))))
    return list(dict.fromkeys(said))


def _files(text: str) -> str:
    """Names of artefacts, the shards of a split counted."""
    names = [name.strip().removeprefix("results/").removesuffix(".json") for name in text.split(", ") if name.strip()]
    groups = Counter(match[1] if (match := SHARD.match(name)) else name for name in names)
    sharded = {match[1] for name in names if (match := SHARD.match(name))}
    return ", ".join(
        f"{name} ({count} shard{'s' if count > 1 else ''})" if name in sharded else name
        for name, count in groups.items()
    )


def _changes(text: str) -> Iterator[str]:
    """What differs between the params before and now."""
    before, _, now = text.partition(" now: ")
    old, new = (dict(_tagged(part)) for part in (before.partition("before: ")[2], now))
    for tag in dict.fromkeys((*old, *new)):
        yield from _change(tag, old.get(tag), new.get(tag))


def _tagged(text: str) -> Iterator[tuple[str, Any]]:
    """Params by what they are."""
    for literal in LITERAL.findall(text):
        value = ast.literal_eval(literal)
        if isinstance(value, str) and value.startswith(("'", '"')):
            value = ast.literal_eval(value)
        if value.startswith("{"):
            yield "config", json.loads(value)
        else:
            yield value.partition(" ")[0], value.partition(" ")[2]


def _change(tag: str, old: Any, new: Any) -> Iterable[str]:
    if tag == "config":
        return _settings(old or {}, new or {})
    if tag == "code":
        return ["its code has changed, or the task's"]
    if tag == "rows":
        return [_rows(old, new)]
    if tag == "retired":
        return [f"retired rows: {_count(new)}, before {_count(old)}"]
    if tag == "content":
        return [f"rows of {name} have changed" for name in _splits(old, new)]
    if tag == "weights":
        return ["other weights are given"]
    others = {"truth": "other true labels", "groups": "other groups", "evaluations": "other evaluations to show"}
    return [others.get(tag, f"{tag} has changed")]


def _settings(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """Each key that differs, as `curvature.damping: 1.0 -> 0.5`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if old.get(key) != new.get(key):
                yield from _settings(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    else:
        yield f"{path}: {json.dumps(old)} -> {json.dumps(new)}"


def _rows(old: str | None, new: str | None) -> str:
    """Other positions, other contents, or others dropped."""
    if old is None or new is None:
        return "other rows"
    (was, content, gone), (now, contents, dropped) = ((*part.split(" ", 2), "")[:3] for part in (old, new))
    if was != now:
        return f"rows {now}, before {was}"
    return (
        "rows dropped from the shard or restored" if content == contents and gone != dropped else "contents of its rows"
    )


def _count(retired: str | None) -> int:
    return len(retired.split(", ")) if retired else 0


def _splits(old: str | None, new: str | None) -> list[str]:
    """Splits whose digests differ."""
    before, now = (dict(part.split(" ") for part in (text or "").split(", ") if part) for text in (old, new))
    return [name for name in now if before.get(name) != now[name]]
