"""`python -m benchmarks.evidence_run FILE SETTING SLUG`: one run of the evidence, all its stages in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.stages import Run, Stage, captured, further, scored
from benchmarks.workflow import FINISHED
from pipeline.config import Config, read_yaml
from pipeline.shards import Plan

SPLITS = ("train", "validation")


def stages(plan: Plan, config: Config) -> Iterator[Stage]:
    """All that the evaluation of a classification with every estimator reads."""
    yield from captured(plan, SPLITS)
    yield from further(plan, config, SPLITS)
    yield from scored(plan)
    yield "evaluate", {}


def main() -> None:
    """Run it, or what of it was not done; its configuration beside it says that all was."""
    file, setting, slug = sys.argv[1:]
    run = Run(f"evidence/{setting}", slug, read_yaml(Path(file)))
    run.make(stages(run.plan, run.config))
    shutil.copyfile(file, run.layout.run / FINISHED)


if __name__ == "__main__":
    main()
