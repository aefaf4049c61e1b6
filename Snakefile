# Lowland's workflow, in the order of the data. `lowland run` drives it; so does
#     snakemake --snakefile Snakefile --directory runs/x --configfile my.yaml --cores 2
# One directory is one run; everything made is below its results/.
import os

from snakemake.utils import min_version

min_version("9.0")


configfile: workflow.source_path("configs/default.yaml")


if os.path.exists("config.yaml"):

    configfile: "config.yaml"


include: "stages/common.smk"
include: "stages/train.smk"
include: "stages/flatten.smk"
include: "stages/further.smk"
include: "stages/projection.smk"
include: "stages/gradients.smk"
include: "stages/candidates.smk"
include: "stages/curvature.smk"
include: "stages/vectors.smk"
include: "stages/index.smk"
include: "stages/posterior.smk"
include: "stages/scores.smk"
include: "stages/query.smk"
include: "stages/evaluate.smk"
include: "stages/retrieval.smk"
include: "stages/stability.smk"
include: "stages/report.smk"
include: "stages/retrain.smk"


localrules:
    all,


rule all:
    default_target: True
    input:
        # Everything by name, not only the last: so an artefact that was lost is made again.
        everything(),
