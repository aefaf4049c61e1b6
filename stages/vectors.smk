# Validation or query gradients, preconditioned: one vector a row, for all later questions.
rule vectors:
    input:
        gradients=lambda wildcards: shards_of("gradients", wildcards.checkpoint, wildcards.split),
        curvature=curvature_at,
    output:
        manifest="results/vectors/{checkpoint}-{split}.json",
    log:
        "logs/vectors/{checkpoint}-{split}.log",
    benchmark:
        "benchmarks/vectors/{checkpoint}-{split}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=memory("vectors"),
        runtime=minutes("vectors"),
    params:
        config=sections("vectors"),
        code=code("vectors"),
    shell:
        "lowland stage vectors --checkpoint {wildcards.checkpoint} --split {wildcards.split}"
        " --config {params.config:q} 2>&1 | tee {log:q}"
