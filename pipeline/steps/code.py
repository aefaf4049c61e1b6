"""The digest of the code behind a stage, as its rule's param. Light: the Snakefile asks at every parse.

`lowland run --accept-code` records that a new digest stands for the one that the artefacts were made with, for a user
who knows that an edit changes no result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.config import STAGES, Config
from pipeline.provenance import PACKAGE, digest_code, digest_value
from pipeline.storage.artefact import write_whole
from pipeline.storage.layout import Layout
from pipeline.tasks.names import task_file

FOR_PEOPLE = ("show", "read")
"""Methods of a task that change no result: how a row looks in the report, and how `query --input` reads one."""


def stage_file(stage: str) -> Path:
    """The module of a stage."""
    return PACKAGE / "steps" / f"{stage}.py"


def digest_of(stage: str, config: Config) -> str:
    """Digest of a stage's module and all that it imports, and of the task where the stage runs it."""
    own = digest_code([stage_file(stage)])
    file = task_file(config.task.class_) if "task" in STAGES[stage] else None
    if file is None or not file.is_file():
        return own
    return digest_value([own, digest_code([file], () if stage == "report" else FOR_PEOPLE)])


def code_of(stage: str, config: Config, run: Path) -> str:
    """The digest to compare with: the present one, or the one that it was accepted to stand for."""
    present = digest_of(stage, config)
    return _accepted(Layout(run)).get(stage, {}).get(present, present)


def stands_for(stage: str, recorded: str, config: Config, run: Path) -> bool:
    """Whether what a stage made with the recorded code is what it would make now."""
    accepted = _accepted(Layout(run)).get(stage, {})
    return accepted.get(recorded, recorded) == code_of(stage, config, run)


def accept(config: Config, run: Path, recorded: dict[str, str]) -> Iterable[str]:
    """Let the present code of every stage stand for the recorded one; yields the stages that differ."""
    accepted = _accepted(Layout(run))
    for stage, old in recorded.items():
        present = digest_of(stage, config)
        old = accepted.get(stage, {}).get(old, old)
        if present != old and accepted.get(stage, {}).get(present) != old:
            accepted.setdefault(stage, {})[present] = old
            yield stage
    write_whole(_place(Layout(run)), json.dumps(accepted, indent=1))


def _place(layout: Layout) -> Path:
    return layout.results / "prepare" / "accepted.json"


def _accepted(layout: Layout) -> dict[str, dict[str, str]]:
    try:
        accepted: dict[str, dict[str, str]] = json.loads(_place(layout).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return accepted
