# Gradients under every label, for relabelling; where the classes are many, or by option, of the suspects only.
rule suspects:
    input:
        gradients=shards_of("gradients", "flat", "train"),
    output:
        manifest="results/candidates/suspects.json",
    log:
        "logs/suspects.log",
    benchmark:
        "benchmarks/suspects.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("suspects"),
        runtime=minutes("suspects"),
    params:
        config=sections("suspects"),
        code=code("suspects"),
        retired=retired(),
    shell:
        "lowland stage suspects --config {params.config:q} 2>&1 | tee {log:q}"


rule candidates:
    input:
        suspects,
        checkpoint="results/checkpoints/{checkpoint}.json",
        projection="results/projection/{checkpoint}.json",
    output:
        manifest="results/candidates/{checkpoint}/{split}/{shard}.json",
    log:
        "logs/candidates/{checkpoint}/{split}/{shard}.log",
    benchmark:
        "benchmarks/candidates/{checkpoint}/{split}/{shard}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("candidates"),
        runtime=minutes("candidates"),
        plan_mb=MEMORY_MB,
    params:
        config=sections("candidates"),
        code=code("candidates"),
        rows=rows,
    shell:
        "lowland stage candidates --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --shard {wildcards.shard} --memory-mb {resources.plan_mb} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
