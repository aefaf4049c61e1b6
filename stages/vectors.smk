# Validation and query gradients, preconditioned: one vector a row, for all later questions.
rule vectors:
    input:
        gradients=asked,
        curvature=curvature_at,
    output:
        manifest="results/vectors/{checkpoint}.json",
    log:
        "logs/vectors/{checkpoint}.log",
    benchmark:
        "benchmarks/vectors/{checkpoint}.tsv"
    threads: CONFIG.compute.threads
    resources:
        mem_mb=4000,
    params:
        config=sections("vectors"),
        code=code("vectors"),
    shell:
        "lowland stage vectors --checkpoint {wildcards.checkpoint} --config {params.config:q} 2>&1 | tee {log:q}"
