# The map to K numbers and the codec's column scales, fitted once a checkpoint. Its sample of train rows is not a dependency:
# appended rows are mapped as the first ones were.
rule projection:
    input:
        checkpoint="results/checkpoints/{checkpoint}.json",
    output:
        manifest="results/projection/{checkpoint}.json",
    log:
        "logs/projection/{checkpoint}.log",
    benchmark:
        "benchmarks/projection/{checkpoint}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("projection"),
        runtime=minutes("projection"),
        plan_mb=MEMORY_MB,
    params:
        config=sections("projection"),
        code=code("projection"),
    shell:
        "lowland stage projection --checkpoint {wildcards.checkpoint} --memory-mb {resources.plan_mb}"
        " {TASK} --config {params.config:q} 2>&1 | tee {log:q}"
