# The curvature of a split at a checkpoint and its spectrum. Another damping starts here.
rule curvature:
    input:
        roots=roots,
        projection="results/projection/{checkpoint}.json",
    output:
        manifest="results/curvature/{checkpoint}-{split}.json",
    log:
        "logs/curvature/{checkpoint}-{split}.log",
    benchmark:
        "benchmarks/curvature/{checkpoint}-{split}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("curvature"),
        runtime=minutes("curvature"),
    params:
        config=sections("curvature"),
        code=code("curvature"),
        retired=lambda wildcards: retired(wildcards.split),
    shell:
        "lowland stage curvature --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --config {params.config:q} {SCAN} 2>&1 | tee {log:q}"
