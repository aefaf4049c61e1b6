# Compressed per-sample gradients, one store a shard of rows, split and checkpoint.
rule gradients:
    input:
        checkpoint="results/checkpoints/{checkpoint}.json",
        projection="results/projection/{checkpoint}.json",
    output:
        manifest="results/gradients/{checkpoint}/{split}/{shard}.json",
    log:
        "logs/gradients/{checkpoint}/{split}/{shard}.log",
    benchmark:
        "benchmarks/gradients/{checkpoint}/{split}/{shard}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("gradients"),
        runtime=minutes("gradients"),
        plan_mb=MEMORY_MB,
    params:
        config=sections("gradients"),
        code=code("gradients"),
        rows=rows,
    shell:
        "lowland stage gradients --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --shard {wildcards.shard} --memory-mb {resources.plan_mb} {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
