"""`python -m benchmarks.evidence_run FILE SETTING SLUG`: one run of the evidence, all its stages in this process.

Beside it, under SLUG and `PLAIN`, stands the same from `flatten` on at a plain minimum of the validation loss (VM).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.stages import FINISHED, Run, Stage, captured, further, scored
from pipeline import config as settings
from pipeline.config import Config
from pipeline.methods import METHODS
from pipeline.shards import Plan

SPLITS = ("train", "validation")
PLAIN = "-vm"
"""Follows the name of a run that is not flattened."""
AT_PLAIN = {"flatten": {"method": "plain"}, "scores": {"estimators": ["w"]}, "evaluate": {"relabel": []}}
"""Its configuration over that of the other."""


def stages(plan: Plan, config: Config) -> Iterator[Stage]:
    """All that the evaluation of a classification with every estimator reads."""
    yield from captured(plan, SPLITS)
    yield from further(plan, config, SPLITS)
    yield from scored(plan)
    for checkpoint in config.checkpoints.expanded(METHODS[name].at[0] for name in config.evaluate.relabel):
        for shard in plan.splits["train"].shards:
            yield "candidates", {"checkpoint": checkpoint, "split": "train", "shard": shard.name}
    yield "evaluate", {}


def plain(run: Run, slug: str, values: dict[str, Any]) -> None:
    """The same trained model at a plain minimum."""
    at_plain = run.beside(slug + PLAIN, settings.merge(values, AT_PLAIN))
    at_plain.make([*captured(at_plain.plan, SPLITS), *scored(at_plain.plan), ("evaluate", {})])


def main() -> None:
    """Run both, or what of them was not done; the configuration beside the first says that all was."""
    file, setting, slug = sys.argv[1:]
    name, values = f"evidence/{setting}", settings.read_yaml(Path(file))
    run = Run(name, slug, values)
    run.make(stages(run.plan, run.config))
    plain(run, slug, values)
    shutil.copyfile(file, run.layout.run / FINISHED)


if __name__ == "__main__":
    main()
