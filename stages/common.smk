# What all stages share: the typed configuration, the plan, and what a rule passes to the command line.
#
# A rule's params are what its results depend on: the sections of the configuration that the stage reads, the digest of
# the code behind it, and the rows of its shard. Snakemake reruns a job when any of them changes.
import json
import subprocess
import sys
from pathlib import Path

from pipeline import config as settings
from pipeline.errors import InputError
from pipeline.shards import Plan
from pipeline.storage.layout import Layout
from pipeline.steps.code import code_of

LOWLAND = f"{sys.executable} -m pipeline"


def resolved():
    """The typed configuration; relative paths start beside the config file that was given last."""
    given = workflow.overwrite_configfiles
    base = Path(given[-1]).resolve().parent if given else Path.cwd()
    return settings.anchor(settings.validate(config), base)


def planned():
    """The plan, brought up to date by the main process and only read by jobs."""
    if workflow.is_main_process:
        passed = json.dumps(settings.sections(CONFIG, "prepare"))
        command = [*LOWLAND.split(), "stage", "prepare", "--config", passed]
        code = subprocess.run([*command, "--whole", json.dumps(CONFIG.plain())]).returncode
        if code:
            raise SystemExit(code)
    return Plan.load(Layout(Path()).plan)


try:
    CONFIG = resolved()
    PLAN = planned()
except InputError as error:
    print(f"lowland: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


wildcard_constraints:
    checkpoint="trained|flat",
    split="train|validation|query",
    shard=r"\d+",
    metric="inner|cosine",


def sections(stage):
    """The sections of the configuration that a stage reads, as its --config argument."""
    return json.dumps(settings.sections(CONFIG, stage), sort_keys=True)


def code(stage):
    """Digest of the code behind a stage, and of the task's where the stage runs it."""
    return code_of(stage, CONFIG, Path.cwd())


def rows(wildcards):
    """The rows of a shard: positions and content."""
    shard = PLAN.splits[wildcards.split].shard(wildcards.shard)
    return f"{shard.start}-{shard.stop} {shard.content}"


def content(*splits):
    """Digest of the contents of some splits."""
    return " ".join(PLAN.splits[split].content for split in splits)


def shards_of(kind, checkpoint, split):
    """Manifests of all shards of a split; kind is gradients or candidates."""
    return [
        f"results/{kind}/{checkpoint}/{split}/{shard.name}.json"
        for shard in PLAN.splits[split].shards
    ]
