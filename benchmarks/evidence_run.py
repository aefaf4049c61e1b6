"""`python -m benchmarks.evidence_run FILE SETTING SLUG`: one run of the evidence, all its stages in this process.

Beside it, under SLUG and `PLAIN`, stands the same from `flatten` on at a plain minimum of the validation loss (VM).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.stages import FINISHED, Run, Stage, captured, further, scored
from pipeline import config as settings
from pipeline.config import STAGES, Config
from pipeline.methods import METHODS
from pipeline.provenance import digest_value
from pipeline.shards import Plan
from pipeline.steps.code import digest_of
from pipeline.storage.artefact import write_whole

SPLITS = ("train", "validation")
PLAIN = "-vm"
"""Follows the name of a run that is not flattened."""
CODE = "code"
"""In the configuration of a finished run: by which code it was made."""
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


def code(values: dict[str, Any]) -> str:
    """Digest of the code behind all stages and of the defaults, by which a run of this configuration is made now."""
    config = settings.validate(settings.merge(settings.defaults(), values))
    return digest_value([settings.defaults(), *(digest_of(stage, config) for stage in STAGES)])


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
    write_whole(run.layout.run / FINISHED, yaml.safe_dump({**values, CODE: code(values)}))


if __name__ == "__main__":
    main()
