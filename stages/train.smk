# The user's model: copied where weights are given, else trained by the task. Never refitted because rows were appended;
# `lowland run --refit` does that.
rule train:
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
        weights=given_weights(),
    shell:
        "lowland stage train {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
