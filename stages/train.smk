# The user's model: copied where weights are given, else trained by the task. Never refitted because rows were appended;
# `lowland run --refit` does that.
rule train:
    input:
        weights=given_weights,
    output:
        manifest="results/checkpoints/trained.json",
        seen="results/checkpoints/seen.json",
    log:
        "logs/train.log",
    benchmark:
        "benchmarks/train.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("train"),
        runtime=minutes("train"),
    params:
        config=sections("train"),
        code=code("train"),
    shell:
        "lowland stage train --config {params.config:q} 2>&1 | tee {log:q}"
