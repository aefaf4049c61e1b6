# The user's model: copied where weights are given, else trained by the task. Never refitted because rows were appended;
# `lowland run --refit` does that.
def given_weights(wildcards):
    """The user's file of weights, where the config names one."""
    path = CONFIG.task.checkpoint
    return [path] if path else []


rule train:
    input:
        weights=given_weights,
    output:
        manifest="results/checkpoints/trained.json",
    params:
        config=sections("train"),
        code=code("train"),
    log:
        "logs/train.log",
    benchmark:
        "benchmarks/train.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    shell:
        "{LOWLAND} stage train --config {params.config:q} 2>&1 | tee {log:q}"
