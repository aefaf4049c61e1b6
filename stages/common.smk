# What all stages share: the typed configuration, the plan, and what a rule passes to the command line.
#
# A rule's params are what its results depend on: the sections of the configuration that the stage reads, the digest of
# the code behind it, and the rows of its shard. Snakemake reruns a job when any of them changes. Each but the sections
# begins with a word that says what it is, by which `lowland plan` tells them apart.
import json
import shlex
import subprocess
import sys
from pathlib import Path

from pipeline import config as settings
from pipeline import resources
from pipeline import retrainings
from pipeline.errors import InputError
from pipeline.methods import METHODS, SOLVED, SOLVED_PAIRS, TRACED, columns_of, paired, solved_from
from pipeline.shards import Plan
from pipeline.storage.layout import METRIC_OF, Layout
from pipeline.steps.code import code_of
from pipeline.steps.asked import made as evaluations_made

LOWLAND = f"{shlex.quote(sys.executable)} -m pipeline"

# The rules say `lowland`: the one beside this interpreter, whatever PATH holds. Not a param, so that another environment
# reruns nothing. A prefix replaces the strict mode that Snakemake sets by itself, without which `tee` would hide a failure.
shell.prefix(f'set -euo pipefail; lowland() {{{{ {LOWLAND} "$@"; }}}}; ')


def resolved():
    """The typed configuration; relative paths start beside the config file that was given last."""
    given = workflow.overwrite_configfiles
    base = Path(given[-1]).resolve().parent if given else Path.cwd()
    return settings.anchor(settings.validate(config), base)


def planned():
    """The plan, brought up to date by the main process and only read by jobs."""
    if workflow.is_main_process:
        passed = json.dumps(settings.sections(CONFIG, "prepare"))
        command = [
            sys.executable,
            "-m",
            "pipeline",
            "stage",
            "prepare",
            "--config",
            passed,
        ]
        code = subprocess.run([*command, "--whole", json.dumps(CONFIG.plain())]).returncode
        if code:
            raise SystemExit(code)
    return Plan.load(Layout(Path()).plan)


try:
    CONFIG = resolved()
    PLAN = planned()
    settings.check_classes(CONFIG, len(PLAN.classes))
except InputError as error:
    print(f"lowland: {error}", file=sys.stderr)
    raise SystemExit(error.exit_code)


# Where the task's files are. Not a param: a project that was moved is still the same.
TASK = "--task " + shlex.quote(json.dumps(settings.places_of(CONFIG)))

# What jobs that capture, reduce or scan may plan with, and where they scan. No params: no result depends on it.
MEMORY_MB = CONFIG.compute.memory_mb
SCAN = f"--memory-mb {MEMORY_MB}" + (f" --dask {shlex.quote(CONFIG.compute.dask)}" if CONFIG.compute.dask else "")


def memory(stage):
    """MB that a job of a stage reserves; a job that comes back, killed for want of memory as it may be, reserves more."""
    return lambda wildcards, attempt: (attempt + 1) * resources.memory_mb(stage, CONFIG, PLAN) // 2


def minutes(stage):
    """Minutes after which a scheduler may stop it; likewise."""
    return lambda wildcards, attempt: attempt * resources.limit_minutes(stage)


wildcard_constraints:
    checkpoint=r"trained|flat|epoch-\d+|seed-\d+|twin-\d+|twin-flat",
    method="[a-z_]+",
    number=r"\d+",
    split="train|validation|query",
    shard=r"\d+",
    metric="inner|cosine",
    set=r"[a-z]+",
    block=r"\d+",


def sections(stage):
    """The sections of the configuration that a stage reads, as its --config argument."""
    return json.dumps(settings.sections(CONFIG, stage, places=False), sort_keys=True)


def code(stage):
    """Digest of the code behind a stage, and of the task's where the stage runs it."""
    return f"code {code_of(stage, CONFIG, Path.cwd())}"


def rows(wildcards):
    """The rows of a shard: positions and content."""
    shard = PLAN.splits[wildcards.split].shard(wildcards.shard)
    dropped = f" but {', '.join(map(str, shard.dropped))}" if shard.dropped else ""
    return f"rows {shard.start}-{shard.stop} {shard.content}{dropped}"


def retired(split="train"):
    """The rows of a split that take part in no answer."""
    return f"retired {', '.join(map(str, PLAN.retired if split == 'train' else ()))}"


def content(*splits):
    """Digest of the contents of some splits."""
    return "content " + ", ".join(f"{split} {PLAN.splits[split].content}" for split in splits)


def shards_of(kind, checkpoint, split):
    """Manifests of all shards of a split; kind is gradients or candidates."""
    return [f"results/{kind}/{checkpoint}/{split}/{shard.name}.json" for shard in PLAN.splits[split].shards]


def everything():
    """Manifests of all that a run makes."""
    at = settings.CURVATURE_SPLIT
    made = [f"results/{stage}/{checkpoint}.json" for stage in ("checkpoints", "projection") for checkpoint in at]
    made += vectors_asked("validation", at) + vectors_asked("query", at)
    made += [f"results/curvature/{checkpoint}-{split}.json" for checkpoint, split in at.items()]
    every = (*at, *CONFIG.checkpoints.further)
    made += [
        shard for checkpoint in every for split in PLAN.splits for shard in shards_of("gradients", checkpoint, split)
    ]
    made += shards_of("candidates", "flat", "train") if PLAN.labelled else []
    made += ["results/checkpoints/folds.json", *posterior()] if PLAN.labelled else []
    made += [f"results/checkpoints/{name}.json" for name in CONFIG.ensemble.names]
    return [
        *made,
        *indexes_asked(),
        "results/scores/scores.json",
        "results/query/topk.json",
        "results/report/index.json",
    ]


def checkpoints_asked():
    """Checkpoints that the configured scores want."""
    return sorted({settings.parse_score(score)[1] for score in CONFIG.query.scores})


def gradients_scored():
    """Gradients of train and validation rows at the checkpoints that the columns of the score table want."""
    wanted = CONFIG.checkpoints.expanded(METHODS[name].at[0] for name in columns_of(CONFIG.scores.estimators))
    return [
        shard
        for checkpoint in wanted
        for split in ("train", "validation")
        for shard in shards_of("gradients", checkpoint, split)
    ]


def solved():
    """What solvers on whole gradients left for the columns of the score table."""
    return [f"results/solved/{name}.json" for name in columns_of(CONFIG.scores.estimators) if name in SOLVED]


def solved_pairs():
    """Scores of pairs of whole gradients, where they are asked for."""
    return [f"results/solved/{name}.json" for name in SOLVED_PAIRS if name in CONFIG.scores.estimators]


def ensemble_losses():
    """Losses at the geometric ensemble, where a column wants them."""
    return ["results/losses/ensemble.json"] if "gex" in CONFIG.scores.estimators else []


def gradients_paired():
    """Gradients of all splits at the checkpoints that scores of pairs want."""
    wanted = [name for _, at in paired(CONFIG.scores.estimators) for name in CONFIG.checkpoints.expanded(at)]
    return [
        shard
        for checkpoint in dict.fromkeys(wanted)
        for split in PLAN.splits
        for shard in shards_of("gradients", checkpoint, split)
    ]


def vectors_asked(split, checkpoints=None):
    """Vectors of a split at some checkpoints, or at those that the configured scores want; none of no rows."""
    found = checkpoints_asked() if checkpoints is None else checkpoints
    return [f"results/vectors/{each}-{split}.json" for each in found] if PLAN.splits[split].rows else []


def indexes_asked():
    """Indexes that the configured scores want."""
    asked = [settings.parse_score(score) for score in CONFIG.query.scores]
    return sorted({f"results/index/{checkpoint}-{METRIC_OF[score]}.json" for score, checkpoint in asked})


def given_weights():
    """What the user's file of weights holds, where the config names one."""
    size, changed, digest = PLAN.stamp["weights"] or (0, 0, "")
    return f"weights {digest or f'{size} bytes of {changed}'}"


def only_suspects():
    """Whether only the suspects among the train rows get candidates."""
    many = len(PLAN.classes) > CONFIG.candidates.max_classes
    return many or CONFIG.candidates.rows == "suspects"


def suspects(wildcards):
    """The list of suspects, where only they count."""
    relabelled = wildcards.checkpoint == "flat" and wildcards.split == "train"
    return ["results/candidates/suspects.json"] if relabelled and only_suspects() else []


def roots(wildcards):
    """What the curvature is summed from: gradients, and for the GGN the gradients under every label."""
    made = shards_of("gradients", wildcards.checkpoint, wildcards.split)
    if CONFIG.curvature.kind == "ggn":
        made += shards_of("candidates", wildcards.checkpoint, wildcards.split)
    return made


def curvature_at(wildcards):
    """The curvature that belongs to a checkpoint: of the train rows at trained, of the validation rows at flat."""
    split = settings.CURVATURE_SPLIT[wildcards.checkpoint]
    return f"results/curvature/{wildcards.checkpoint}-{split}.json"


def relabelling():
    """Gradients under every label, where the task gives labels."""
    return shards_of("candidates", "flat", "train") if PLAN.labelled else []


def relabelling_judged():
    """Gradients under every label where estimators are that suggest labels beside S."""
    wanted = CONFIG.checkpoints.expanded(METHODS[name].at[0] for name in CONFIG.evaluate.relabel if PLAN.labelled)
    return [shard for checkpoint in wanted for shard in shards_of("candidates", checkpoint, "train")]


def posterior():
    """How likely the given labels are wrong, where the task gives labels."""
    return ["results/posterior/posterior.json"] if PLAN.labelled else []


def evaluation():
    """The evaluation, where it is wanted and possible."""
    if not CONFIG.report.evaluation:
        return []
    judged = {"mislabel": PLAN.truth and PLAN.classes, "retrieval": PLAN.groups}
    return [f"results/evaluation/{table}.json" for table, wanted in judged.items() if wanted]


def gradients_of_all_pairs():
    """Gradients of all splits at the checkpoints of methods that score pairs."""
    wanted = CONFIG.checkpoints.expanded(at for method in METHODS.values() if method.pairs for at in method.at)
    return [shard for each in wanted for split in PLAN.splits for shard in shards_of("gradients", each, split)]


def retrained(set_name):
    """The jobs that retrain the members of a set."""
    return [f"results/retrain/{set_name}/blocks/{block}.json" for block in retrainings.blocks(CONFIG.retrain, set_name)]


def retrained_from(wildcards):
    """What tells a set its rows and labels: scores and predictions for suspects, memorisation for memorised rows."""
    scores, trained = "results/scores/scores.json", "results/checkpoints/trained.json"
    memorised = "results/evaluation/memorisation.json"
    return {"removal": [scores, trained], "cleansing": [scores], "memorised": [memorised]}.get(wildcards.set, [])


def evaluated():
    """Digests of the tables that `lowland evaluate` was asked for: no part of a run, but shown where they are."""
    return "evaluations " + ", ".join(evaluations_made(Layout(Path())) if CONFIG.report.evaluation else [])


def truth_for(wildcards):
    """Digest of the true labels, where the oracle looks at them."""
    return PLAN.truth if wildcards.set == "removal" else ""
